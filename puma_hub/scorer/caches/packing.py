"""Keeping states in fewer bits than the model computes in. What is lost is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from puma_hub.errors import ConfigurationError, shown
from puma_hub.scorer.caches.kinds import States

CACHE_DTYPES = ("bfloat16", "int8")


@dataclass(frozen=True)
class Packing:
    """How states are kept: as they are, as bfloat16, or as int8 with a scale for each vector (float32, in the last
    dimension).

    Args:
        dtype: one of :data:`CACHE_DTYPES`; None keeps states as they are.

    Raises:
        ConfigurationError: there is no such dtype.
    """

    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in CACHE_DTYPES:
            raise ConfigurationError(
                f"a prefix cache is kept as {' or '.join(CACHE_DTYPES)}, or in the LLM's own dtype (None), got "
                f"{shown(self.dtype)}"
            )

    def pack(self, states: States) -> States:
        """The states as they are kept. Tensors that are no smaller packed stay as they are."""
        return tuple(part for tensor in states for part in self._packed(tensor))

    def unpack(self, kept: States, like: States) -> States:
        """The states in the dtypes of ``like``, which are other states of the model."""
        if self.dtype is None:
            return kept
        parts = iter(kept)
        return tuple(self._unpacked(parts.__next__, tensor.dtype) for tensor in like)

    def error(self, states: States) -> float:
        """Root mean square of what packing changes, as a share of the states' root mean square."""
        again = self.unpack(self.pack(states), states)
        lost = sum(float((one.double() - two.double()).square().sum()) for one, two in zip(states, again))
        whole = sum(float(one.double().square().sum()) for one in states)
        return math.sqrt(lost / whole) if whole else 0.0

    def _smaller(self, dtype: torch.dtype) -> bool:
        least = {"bfloat16": 2, "int8": 1}.get(self.dtype or "", 8)
        return dtype.is_floating_point and dtype.itemsize > least

    def _packed(self, tensor: torch.Tensor) -> States:
        if not self._smaller(tensor.dtype):
            return (tensor,)
        if self.dtype == "bfloat16":
            return (tensor.to(torch.bfloat16),)
        scale = tensor.float().abs().amax(-1, keepdim=True) / 127
        numbers = (tensor.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
        return numbers.to(torch.int8), scale

    def _unpacked(self, part: Callable[[], torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        if not self._smaller(dtype):
            return part()
        if self.dtype == "bfloat16":
            return part().to(dtype)
        return (part().float() * part()).to(dtype)
