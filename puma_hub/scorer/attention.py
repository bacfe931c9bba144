"""Scaled dot-product attention without copies of the key/value heads.

transformers' ``sdpa`` repeats every key and value head for grouped-query attention as soon as there is a
mask. With a long cached prefix and a short query that copy, and its backward pass, costs more than the
attention itself. Folding the query heads of a group into the query axis gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query (B, H, q, D)`` over ``key``/``value (B, H_kv, k, D)``; returns ``(B, q, H, D)``."""
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise ValueError(f"{GROUPED_SDPA} has no soft-capping or position bias; use attn_implementation='eager'")
    batch, heads, length, _ = query.shape
    groups = heads // key.shape[1]
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
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=causal
    )
    return output.reshape(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make :data:`GROUPED_SDPA` a valid ``attn_implementation``; safe to call again."""
    AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
    AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
