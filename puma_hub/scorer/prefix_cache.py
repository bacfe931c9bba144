"""Key/value caches of the text before the user's slot, computed once without gradients.

Nothing before the slot depends on the user, so with an item-first template a prefix's cache is a constant
of the item: every user and every epoch can share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from transformers import DynamicCache

from puma_hub.errors import ConfigurationError, UnsupportedModelError
from puma_hub.scorer.encoding import EncodedRows, PrefixGroup

POLICIES = ("auto", "full", "lru", "recompute", "off")
_USEFUL_SHARE = 0.1  # below this share of the prefixes an LRU would nearly always miss

GroupForward = Callable[[PrefixGroup], torch.Tensor]


@dataclass
class PrefixCacheReport:
    """What the cache did: the policy in force, bytes held and needed, and how often it was asked."""

    policy: str
    bytes_held: int = 0
    bytes_needed: int = 0
    hits: int = 0
    misses: int = 0

    def to_dict(self) -> dict[str, str | int]:
        return asdict(self)


def default_budget(device: torch.device) -> int:
    """A third of the memory that is free on ``device``, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    import psutil

    return int(psutil.virtual_memory().available) // 3


class PrefixCache:
    """Holds stacked caches ``(2 * layers, rows, kv_heads, length, head_dim)`` by prefix group.

    Policies: ``full`` keeps every group, ``lru`` keeps the most recent ones within ``budget`` bytes,
    ``recompute`` keeps none (the prefix still has no backward pass), ``off`` is the caller's affair: the whole
    sequence goes through the model. ``auto`` takes the first of ``full``, ``lru``, ``recompute`` that fits.
    """

    def __init__(self, forward: GroupForward, bytes_per_token: int, policy: str = "auto", budget: int | None = None):
        if policy not in POLICIES:
            raise ConfigurationError(f"unknown prefix_cache {policy!r}; choose one of {', '.join(POLICIES)}")
        self._forward = forward
        self._bytes_per_token = bytes_per_token
        self._requested = policy
        self._budget = budget
        self._stored: OrderedDict[PrefixGroup, torch.Tensor] = OrderedDict()
        self.report = PrefixCacheReport(policy if policy != "auto" else "full")

    def plan(self, rows: EncodedRows, device: torch.device) -> str:
        """Choose the policy for ``rows`` and return it."""
        groups = set(rows.groups) | set(self._stored)
        need = sum(g.length * len(g.prefixes) for g in groups) * self._bytes_per_token
        self.report.bytes_needed = need
        if self._budget is None:
            self._budget = default_budget(device)
        if self._requested == "auto":
            fits = "full" if need <= self._budget else "lru"
            self.report.policy = fits if self._budget >= need * _USEFUL_SHARE else "recompute"
        else:
            self.report.policy = self._requested
        return self.report.policy

    def fill(self, rows: EncodedRows, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute all groups of ``rows`` ahead of use (policy ``full`` only)."""
        groups = list(dict.fromkeys(rows.groups)) if self.report.policy == "full" else []
        for done, group in enumerate(groups, 1):
            self._states(group)
            if progress is not None:
                progress(done, len(groups))

    def _states(self, group: PrefixGroup) -> torch.Tensor:
        states = self._stored.get(group)
        if states is not None:
            self.report.hits += 1
            self._stored.move_to_end(group)
            return states
        self.report.misses += 1
        states = self._forward(group)
        if self.report.policy in ("full", "lru"):
            self._stored[group] = states
            self.report.bytes_held += states.nbytes
            while self.report.policy == "lru" and self.report.bytes_held > (self._budget or 0) and self._stored:
                self.report.bytes_held -= self._stored.popitem(last=False)[1].nbytes
        return states

    def gather(self, rows: EncodedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch's states as in :func:`stack_cache`, padded on the left, and the lengths ``(B,)``."""
        by_group: dict[PrefixGroup, list[int]] = {}
        for i, group in enumerate(rows.groups):
            by_group.setdefault(group, []).append(i)
        width = max(len(prefix) for prefix in rows.prefixes)
        batch: torch.Tensor | None = None
        for group, members in by_group.items():
            states = self._states(group)
            if batch is None:
                layers2, _, heads, _, size = states.shape
                batch = states.new_empty(layers2, len(rows), heads, width, size)
            for i in members:
                start = width - len(rows.prefixes[i])
                batch[:, i, :, :start] = 0.0
                if start < width:
                    batch[:, i, :, start:] = states[:, group.row_of[rows.prefixes[i]], :, start - width :]
        assert batch is not None
        return batch, torch.tensor([len(prefix) for prefix in rows.prefixes], device=batch.device)


def stack_cache(cache: DynamicCache) -> torch.Tensor:
    """Stack a filled cache to ``(2 * layers, B, kv_heads, length, head_dim)``.

    Raises:
        UnsupportedModelError: layers keep other things than keys and values of one shape.
    """
    states: list[torch.Tensor] = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.shape != values.shape or (states and keys.shape != states[0].shape):
            raise UnsupportedModelError(
                "this model's layers do not all keep keys and values of one shape; use prefix_cache='off'"
            )
        states += [keys, values]
    return torch.stack(states)
