"""Attention of a few new tokens over a long constant prefix, without copies of keys and values.

For grouped-query attention with a mask, transformers' ``sdpa`` repeats every key and value head. Its caches concatenate
the prefix and the new tokens in every layer. With a long cached prefix and a short query, these copies and their
backward passes cost more than the attention itself. Two changes avoid them and give the same numbers: the query heads
of a group are folded into the query axis, and prefix and new tokens are attended to separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

GROUPED_SDPA = "puma_grouped_sdpa"


def grouped_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    prefix_layers: Sequence[PrefixLayer] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query (B, H, q, D)`` over ``key``/``value (B, H_kv, k, D)``; returns ``(B, q, H, D)``.

    With ``prefix_layers``, these hold the keys and values of the prefix, and ``key`` and ``value`` are those of the new
    tokens only.
    """
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise ValueError(f"{GROUPED_SDPA} has no soft-capping or position bias; use attn_implementation='eager'")
    batch, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    # Without a mask, attention is causal: a single new token sees everything.
    causal = attention_mask is None and length > 1 and (is_causal or is_causal is None)
    if causal and (groups > 1 or key.shape[2] != length):
        attention_mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = attention_mask.tril(key.shape[2] - length)[None, None]
        causal = False
    if groups > 1:
        query = query.reshape(batch, heads // groups, groups * length, -1)
        if attention_mask is not None:
            if attention_mask.shape[1] > 1:
                raise ValueError(f"{GROUPED_SDPA} needs one mask for all heads; use attn_implementation='eager'")
            attention_mask = attention_mask.repeat(1, 1, groups, 1)
    if prefix_layers is not None:
        prefix = prefix_layers[int(module.layer_idx)]  # type: ignore[arg-type]
        output = _over_both(query, (prefix.keys, prefix.values), (key, value), attention_mask, scaling)
        return output.reshape(batch, heads, length, -1).transpose(1, 2).contiguous(), None
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=causal
    )
    return output.reshape(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def _over_both(
    query: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor],
    new: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """One softmax over the prefix and the new tokens. No gradient is computed for the prefix."""
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.cat([query @ prefix[0].transpose(-1, -2), query @ new[0].transpose(-1, -2)], -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    width = prefix[0].shape[-2]
    return weights[..., :width] @ prefix[1] + weights[..., width:] @ new[1]


class PrefixLayer(DynamicLayer):
    """The constant prefix of one layer. :func:`grouped_sdpa` attends to it and to the new tokens."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the new tokens' keys and values unchanged: they are not joined with the prefix."""
        return key_states, value_states


def use(model: PreTrainedModel, implementation: str) -> None:
    """Set the model's attention: an implementation of transformers, or :data:`GROUPED_SDPA`."""
    if implementation == GROUPED_SDPA:
        AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
        AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
    model.set_attn_implementation(implementation)
