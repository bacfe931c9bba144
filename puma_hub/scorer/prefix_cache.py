"""Key/value caches of the text before the user's slot, computed once without gradients.

Nothing before the slot depends on the user, so with an item-first template a prefix's cache is a constant
of the item: every user and every epoch can share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import DynamicCache

from puma_hub.errors import ConfigurationError, UnsupportedModelError
from puma_hub.scorer.encoding import EncodedRows
from puma_hub.scorer.tokens import Tokens

POLICIES = ("auto", "full", "lru", "recompute", "off")
_USEFUL_SHARE = 0.1  # below this share of the prefixes an LRU would nearly always miss
# Prefixes are computed in batches of one size and of few widths, filled up where there are fewer: in matrices of one
# shape a row has the same bits whatever stands in the others, so a prefix's states never depend on its company.
_WIDTH_STEP = 4
_ROWS_AND_TOKENS = {"cpu": (4, 512)}  # at once at most
_ELSEWHERE = (32, 4096)

PrefixForward = Callable[[Sequence[Tokens], int], torch.Tensor]


@dataclass
class PrefixCacheReport:
    """What the cache did: the policy in force, bytes held and needed, and how often a prefix was there or not."""

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
    """Holds the states ``(2 * layers, kv_heads, length, head_dim)`` of prefixes.

    Policies: ``full`` keeps all, ``lru`` keeps the most recent ones within ``budget`` bytes,
    ``recompute`` keeps none (the prefix still has no backward pass), ``off`` is the caller's affair: the whole
    sequence goes through the model. ``auto`` takes the first of ``full``, ``lru``, ``recompute`` that fits.

    Args:
        forward: gives the states ``(2 * layers, B, kv_heads, width, head_dim)`` of ``B`` prefixes, padded on the left
            to a width.
        bytes_per_token: what a token of a prefix takes.

    Raises:
        ConfigurationError: the policy is unknown, or the budget is no number of bytes.
    """

    def __init__(self, forward: PrefixForward, bytes_per_token: int, policy: str = "auto", budget: int | None = None):
        if policy not in POLICIES:
            raise ConfigurationError(f"unknown prefix_cache {policy!r}; choose one of {', '.join(POLICIES)}")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
            raise ConfigurationError(f"cache_budget must be a whole number of bytes, 0 or more, got {budget!r}")
        self._forward = forward
        self._bytes_per_token = bytes_per_token
        self._requested = policy
        self._budget = budget
        self._at_once = _ROWS_AND_TOKENS["cpu"]
        self._stored: OrderedDict[Tokens, torch.Tensor] = OrderedDict()
        self.report = PrefixCacheReport(policy if policy != "auto" else "full")

    def plan(self, rows: EncodedRows, device: torch.device) -> str:
        """Choose the policy for ``rows`` and return it; the model computes on ``device``."""
        self._at_once = _ROWS_AND_TOKENS.get(device.type, _ELSEWHERE)
        new = sum(len(prefix) for prefix in set(rows.prefixes) if prefix not in self._stored)
        need = self.report.bytes_held + new * self._bytes_per_token
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
        """Compute all prefixes of ``rows`` ahead of use (policy ``full`` only)."""
        wanted = dict.fromkeys(rows.prefixes) if self.report.policy == "full" else {}
        missing = [prefix for prefix in wanted if prefix not in self._stored]
        done = 0
        for found in self._computed(missing):
            self.report.misses += len(found)
            self._store(found)
            done += len(found)
            if progress is not None:
                progress(done, len(missing))

    def gather(self, rows: EncodedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch's states as in :func:`stack_cache`, padded on the left, and the lengths ``(B,)``."""
        states = self._states(rows.prefixes)
        width = max(len(prefix) for prefix in rows.prefixes)
        layers2, heads, _, size = states[rows.prefixes[0]].shape
        batch = states[rows.prefixes[0]].new_empty(layers2, len(rows), heads, width, size)
        for i, prefix in enumerate(rows.prefixes):
            start = width - len(prefix)
            batch[:, i, :, :start] = 0.0
            batch[:, i, :, start:] = states[prefix]
        return batch, torch.tensor([len(prefix) for prefix in rows.prefixes], device=batch.device)

    def _states(self, prefixes: Sequence[Tokens]) -> dict[Tokens, torch.Tensor]:
        """The states of distinct prefixes; those that are not held are computed, and only those."""
        found: dict[Tokens, torch.Tensor] = {}
        missing = []
        for prefix in dict.fromkeys(prefixes):
            if prefix in self._stored:
                found[prefix] = self._stored[prefix]
                self._stored.move_to_end(prefix)
            else:
                missing.append(prefix)
        self.report.hits += len(found)
        self.report.misses += len(missing)
        for computed in self._computed(missing):
            found |= computed
            self._store(computed)
        return found

    def _computed(self, prefixes: Sequence[Tokens]) -> Iterator[dict[Tokens, torch.Tensor]]:
        """States of prefixes, some at a time; the same bits whichever others are asked for."""
        by_width: dict[int, list[Tokens]] = {}
        for prefix in prefixes:
            by_width.setdefault(-(-max(1, len(prefix)) // _WIDTH_STEP) * _WIDTH_STEP, []).append(prefix)
        for width, members in sorted(by_width.items()):
            size = max(1, min(self._at_once[0], self._at_once[1] // width))
            for start in range(0, len(members), size):
                chosen = members[start : start + size]
                states = self._forward([*chosen, *[chosen[0]] * (size - len(chosen))], width)
                yield {prefix: states[:, row, :, width - len(prefix) :].clone() for row, prefix in enumerate(chosen)}

    def _store(self, states: dict[Tokens, torch.Tensor]) -> None:
        if self.report.policy not in ("full", "lru"):
            return
        for prefix, own in states.items():
            self._stored[prefix] = own
            self.report.bytes_held += own.nbytes
        while self.report.policy == "lru" and self.report.bytes_held > (self._budget or 0) and self._stored:
            self.report.bytes_held -= self._stored.popitem(last=False)[1].nbytes


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
