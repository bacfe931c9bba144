"""Keys and values of one shape in all layers: most decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import Cache, DynamicCache

from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.attention import PrefixLayer
from puma_hub.scorer.caches.kinds import CacheKind, States, register_cache_kind


@register_cache_kind
class KeyValues(CacheKind):
    """One tensor ``(2 * layers, B, kv_heads, length, head_dim)``; of one prefix, without ``B``."""

    name: ClassVar[str] = "key-values"
    padded: ClassVar[bool] = True
    grouped: ClassVar[bool] = True

    def empty(self) -> Cache:
        return DynamicCache()  # no config: every layer then keeps all positions, a sliding window is left to the mask

    def taken(self, cache: Cache) -> States:
        states: list[torch.Tensor] = []
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if keys is None or values is None or {keys.shape, values.shape} != {(states or [keys])[0].shape}:
                raise UnsupportedModelError("this model's layers do not all keep keys and values of one shape")
            states += [keys, values]
        return (torch.stack(states),)

    def of_row(self, states: States, row: int, length: int) -> States:
        whole = states[0]
        return (whole[:, row, :, whole.shape[3] - length :].clone(),)

    def batch(self, prefixes: Sequence[States], lengths: Sequence[int]) -> States:
        width = max(lengths)
        layers, heads, _, size = prefixes[0][0].shape
        batch = prefixes[0][0].new_empty(layers, len(prefixes), heads, width, size)
        for row, (states, length) in enumerate(zip(prefixes, lengths)):
            batch[:, row, :, : width - length] = 0.0
            batch[:, row, :, width - length :] = states[0]
        return (batch,)

    def forward_options(self, states: States, apart: bool) -> tuple[Cache, dict[str, Any]]:
        pairs = [(states[0][i], states[0][i + 1]) for i in range(0, len(states[0]), 2)]
        if not apart:
            return DynamicCache(pairs), {}
        layers: list[Any] = [PrefixLayer(keys, values) for keys, values in pairs]
        return Cache(layers=layers), {"prefix_layers": layers}

    def bytes_of(self, token: States, length: int) -> int:
        return token[0].nbytes * length
