"""Kinds of caches: what a model's layers keep of a prefix, and how it is kept for many prefixes.

A new kind is a class in a file of its own, registered with :func:`register_cache_kind` and named in the package's
``__init__``. A model is tried with each kind in the order of their registration, and goes by the first that keeps all
its layers do and gives exact logits; by none, its rows go whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from transformers import Cache, PretrainedConfig

from puma_hub.errors import ConfigurationError

States = tuple[torch.Tensor, ...]
"""What the layers keep of one prefix, or of a batch of them. What the tensors are is the kind's own affair."""


class CacheKind(ABC):
    """What a model's layers keep.

    Args:
        config: the model's.
    """

    name: ClassVar[str]
    padded: ClassVar[bool]
    """Whether prefixes of unequal lengths go through the model together, padded on the left under a mask."""
    grouped: ClassVar[bool] = False
    """Whether :func:`~puma_hub.scorer.attention.grouped_sdpa` can attend to the states, joined or apart."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config

    @abstractmethod
    def empty(self) -> Cache:
        """A cache for the model to fill with prefixes."""

    @abstractmethod
    def taken(self, cache: Cache) -> States:
        """The states of a batch, out of a filled cache.

        Raises:
            UnsupportedModelError: the layers keep something else.
        """

    @abstractmethod
    def of_row(self, states: States, row: int, length: int) -> States:
        """A copy of the states of one prefix of ``length`` tokens, out of a batch padded on the left."""

    @abstractmethod
    def batch(self, prefixes: Sequence[States], lengths: Sequence[int]) -> States:
        """The states of several prefixes as a batch; padded on the left to the longest where the kind is padded."""

    @abstractmethod
    def forward_options(self, states: States, apart: bool) -> tuple[Cache, dict[str, Any]]:
        """The cache that a forward goes on from, and what else the forward is given.

        The states stay as they are, also where gradients flow through the forward.

        Args:
            apart: attend to the prefix without joining it with the new tokens; of kinds that can.
        """

    @abstractmethod
    def bytes_of(self, token: States, length: int) -> int:
        """Bytes that a prefix of ``length`` tokens takes; ``token`` is what is kept of a prefix of one."""


_Kind = TypeVar("_Kind", bound=type[CacheKind])
_KINDS: dict[str, type[CacheKind]] = {}


def register_cache_kind(kind: _Kind) -> _Kind:
    """Register a kind under its ``name``; a class decorator.

    Raises:
        ConfigurationError: the name is taken.
    """
    if kind.name in _KINDS:
        raise ConfigurationError(f"a cache kind {kind.name!r} is registered already; choose another name")
    _KINDS[kind.name] = kind
    return kind


def cache_kinds() -> tuple[type[CacheKind], ...]:
    """The registered kinds, in the order in which a model is tried with them."""
    return tuple(_KINDS.values())
