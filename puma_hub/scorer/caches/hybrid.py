"""Whatever each layer keeps: recurrent and convolution states, keys and values of shapes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import Cache, DynamicCache, PretrainedConfig, cache_utils
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.caches.kinds import CacheKind, States, register_cache_kind


class _RecurrentLayer(LinearAttentionLayer):
    """Constant states that new tokens go on from; nothing is written to them, so that gradients can flow."""

    def update_conv_state(
        self, conv_states: torch.Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **options: Any
    ) -> torch.Tensor:
        before = self.conv_states[state_idx]
        return conv_states if before is None else torch.cat([before, conv_states], -1)

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, **options: Any
    ) -> torch.Tensor:
        return recurrent_states


class _RecurrentAndAttentionLayer(_RecurrentLayer, LinearAttentionAndFullAttentionLayer):  # type: ignore[misc, override]
    """Likewise in a layer that also attends."""


# By what transformers makes for a layer: what is filled with a prefix, and what new tokens go on from. A layer of a
# sliding window keeps all positions, and the window is left to the mask.
_LAYERS: dict[type, tuple[type, type]] = {
    DynamicLayer: (DynamicLayer, DynamicLayer),
    DynamicSlidingWindowLayer: (DynamicLayer, DynamicLayer),
    LinearAttentionLayer: (LinearAttentionLayer, _RecurrentLayer),
    LinearAttentionAndFullAttentionLayer: (LinearAttentionAndFullAttentionLayer, _RecurrentAndAttentionLayer),
    LinearAttentionAndSlidingWindowAttentionLayer: (LinearAttentionAndFullAttentionLayer, _RecurrentAndAttentionLayer),
}


if (_nothing := getattr(cache_utils, "DummyLayer", None)) is not None:  # not in transformers 5.20
    _LAYERS[_nothing] = (_nothing, _nothing)


@register_cache_kind
class HybridStates(CacheKind):
    """Tensors ``(B, ...)`` of layers of any kinds, one after the other; of one prefix, ``B`` is 1.

    Recurrent states know no padding, so only prefixes of one length go together.
    """

    name: ClassVar[str] = "hybrid"
    padded: ClassVar[bool] = False

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self._layout: list[_Layer] = []

    def empty(self) -> Cache:
        made: list[Any] = DynamicCache(config=self.config).layers
        odd = next((layer for layer in made if type(layer) not in _LAYERS), None)
        if odd is not None:
            raise UnsupportedModelError(f"this model's layers keep what a {type(odd).__name__} holds")
        return Cache(layers=[_LAYERS[type(layer)][0](**_options(layer)) for layer in made])

    def taken(self, cache: Cache) -> States:
        self._layout = [_Layer.of(layer) for layer in cache.layers]
        return tuple(part.get(layer) for layer, known in zip(cache.layers, self._layout) for part in known.parts)

    def of_row(self, states: States, row: int, length: int) -> States:
        return tuple(tensor[row : row + 1].clone() for tensor in states)

    def batch(self, prefixes: Sequence[States], lengths: Sequence[int]) -> States:
        return tuple(torch.cat(tensors) for tensors in zip(*prefixes))

    def forward_options(self, states: States, apart: bool) -> tuple[Cache, dict[str, Any]]:
        given = iter(states)
        layers: list[Any] = []
        for known in self._layout:
            layers.append(known.going_on(**known.options))
            for part in known.parts:
                part.set(layers[-1], next(given))
        return Cache(layers=layers), {}

    def bytes_of(self, token: States, length: int) -> int:
        parts = [part for known in self._layout for part in known.parts]
        return sum(t.nbytes * (length if part.number is None else 1) for t, part in zip(token, parts))


@dataclass(frozen=True)
class _Part:
    """An attribute in which a layer keeps a tensor; of recurrent layers with the number of the state."""

    attribute: str
    number: int | None = None

    def get(self, layer: Any) -> torch.Tensor:
        held = getattr(layer, self.attribute)
        tensor: torch.Tensor = held if self.number is None else held[self.number]
        return tensor

    def set(self, layer: Any, tensor: torch.Tensor) -> None:
        layer.dtype, layer.device = tensor.dtype, tensor.device
        if self.number is None:
            setattr(layer, self.attribute, tensor)
            layer.is_initialized = True
            return
        getattr(layer, self.attribute)[self.number] = tensor
        getattr(layer, f"is_{self.attribute}_initialized")[self.number] = True
        layer.has_previous_state[self.number] = True
        if self.attribute == "conv_states":
            layer.conv_kernel_size[self.number] = tensor.shape[-1]


@dataclass(frozen=True)
class _Layer:
    """What a layer keeps, and what new tokens go on from in its place."""

    going_on: type
    options: dict[str, int]
    parts: list[_Part]

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        parts: list[_Part] = []
        if isinstance(layer, LinearAttentionLayer):
            for attribute in ("conv_states", "recurrent_states"):
                held = getattr(layer, attribute)
                parts += [_Part(attribute, number) for number, tensor in held.items() if tensor is not None]
        if isinstance(layer, DynamicLayer) and layer.is_initialized:
            parts += [_Part("keys"), _Part("values")]
        return cls(dict(_LAYERS.values())[type(layer)], _options(layer), parts)


def _options(layer: Any) -> dict[str, int]:
    return {"number_of_states": layer.number_of_states} if isinstance(layer, LinearAttentionLayer) else {}
