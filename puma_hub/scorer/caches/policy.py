"""Which prefixes' states are held: all, the most recent ones, or none.

Nothing before the first soft slot depends on a prompt, so with an item-first template a prefix's states are a constant
of the item: every user and every epoch can share them. They are computed once, without gradients.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from puma_hub.errors import ConfigurationError
from puma_hub.scorer.caches.kinds import CacheKind, States
from puma_hub.scorer.caches.packing import Packing
from puma_hub.scorer.tokens import Tokens

POLICIES = ("auto", "full", "lru", "recompute", "off")
_USEFUL_SHARE = 0.1  # below this share of the prefixes an LRU would nearly always miss
# Prefixes are computed in batches of one size and of few widths, filled up where there are fewer: in matrices of one
# shape a row has the same bits whatever stands in the others, so a prefix's states never depend on its company.
_WIDTH_STEP = 4
_ROWS_AND_TOKENS = {"cpu": (4, 512)}  # at once at most
_ELSEWHERE = (32, 4096)


class PrefixForward(Protocol):
    """Gives the states of prefixes, padded on the left to a width."""

    def __call__(self, prefixes: Sequence[Tokens], width: int) -> States: ...


@dataclass
class PrefixCacheReport:
    """What the cache did: the policy in force, bytes held and needed, and how often a prefix was there or not.

    ``dtype`` is what states are kept in, if not the model's; ``error`` is what that loses of the
    first prefixes, as a share of the states' root mean square.
    """

    policy: str
    dtype: str | None = None
    error: float | None = None
    bytes_held: int = 0
    bytes_needed: int = 0
    hits: int = 0
    misses: int = 0

    def to_dict(self) -> dict[str, str | int | float | None]:
        return asdict(self)


def default_budget(device: torch.device) -> int:
    """A third of the memory that is free on ``device``, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    import psutil

    return int(psutil.virtual_memory().available) // 3


def require_options(policy: str, budget: int | None) -> None:
    """Refuse an unknown policy, and a budget that is no number of bytes.

    Raises:
        ConfigurationError: one of them is.
    """
    if policy not in POLICIES:
        raise ConfigurationError(f"unknown prefix_cache {policy!r}; choose one of {', '.join(POLICIES)}")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
        raise ConfigurationError(f"cache_budget must be a whole number of bytes, 0 or more, got {budget!r}")


class PrefixCache:
    """Holds the states of prefixes.

    Policies: ``full`` keeps all, ``lru`` keeps the most recent ones within ``budget`` bytes,
    ``recompute`` keeps none (the prefix still has no backward pass), ``off`` is the caller's affair: the whole
    sequence goes through the model. ``auto`` takes the first of ``full``, ``lru``, ``recompute`` that fits.

    Args:
        kind: what the model's layers keep.
        forward: computes the states of prefixes.
        token: what is kept of a prefix of one token; needed to plan.
        budget: bytes the cache may take; a third of the free memory by default.
        packing: how states are kept.

    Raises:
        ConfigurationError: the policy is unknown, or the budget is no number of bytes.
    """

    def __init__(
        self,
        kind: CacheKind,
        forward: PrefixForward,
        policy: str = "auto",
        budget: int | None = None,
        token: States = (),
        packing: Packing | None = None,
    ) -> None:
        require_options(policy, budget)
        self._packing = packing or Packing()
        self._kind = kind
        self._forward = forward
        self._token = token
        self._requested = policy
        self._budget = budget
        self._at_once = _ROWS_AND_TOKENS["cpu"]
        self._stored: OrderedDict[Tokens, States] = OrderedDict()
        self.report = PrefixCacheReport(policy if policy != "auto" else "full", self._packing.dtype)

    def plan(self, prefixes: Sequence[Tokens], device: torch.device) -> str:
        """Choose the policy for these prefixes and return it; the model computes on ``device``."""
        self._at_once = _ROWS_AND_TOKENS.get(device.type, _ELSEWHERE)
        new = [len(prefix) for prefix in set(prefixes) if prefix not in self._stored]
        need = sum(self._kind.bytes_of(self._token, length) for length in new)
        need = self.report.bytes_held + math.ceil(need * self._share_kept)
        self.report.bytes_needed = need
        if self._budget is None:
            self._budget = default_budget(device)
        if self._requested == "auto":
            fits = "full" if need <= self._budget else "lru"
            self.report.policy = fits if self._budget >= need * _USEFUL_SHARE else "recompute"
        else:
            self.report.policy = self._requested
        return self.report.policy

    def fill(self, prefixes: Sequence[Tokens], progress: Callable[[int, int], None] | None = None) -> None:
        """Compute all these prefixes ahead of use (policy ``full`` only)."""
        wanted = dict.fromkeys(prefixes) if self.report.policy == "full" else {}
        missing = [prefix for prefix in wanted if prefix not in self._stored]
        done = 0
        for found in self._computed(missing):
            self.report.misses += len(found)
            self._store(found)
            done += len(found)
            if progress is not None:
                progress(done, len(missing))

    def gather(self, prefixes: Sequence[Tokens]) -> States:
        """Return the prefixes' states as a batch, see :meth:`CacheKind.batch`."""
        states = self._states(prefixes)
        return self._kind.batch([states[prefix] for prefix in prefixes], [len(prefix) for prefix in prefixes])

    def _states(self, prefixes: Sequence[Tokens]) -> dict[Tokens, States]:
        """The states of distinct prefixes; those that are not held are computed, and only those."""
        found: dict[Tokens, States] = {}
        missing = []
        for prefix in dict.fromkeys(prefixes):
            if prefix in self._stored:
                found[prefix] = self._packing.unpack(self._stored[prefix], self._token)
                self._stored.move_to_end(prefix)
            else:
                missing.append(prefix)
        self.report.hits += len(found)
        self.report.misses += len(missing)
        for computed in self._computed(missing):
            kept = self._store(computed)
            found |= {prefix: self._packing.unpack(own, self._token) for prefix, own in kept.items()}
        return found

    def _computed(self, prefixes: Sequence[Tokens]) -> Iterator[dict[Tokens, States]]:
        """States of prefixes, some at a time; the same bits whichever others are asked for."""
        step = _WIDTH_STEP if self._kind.padded else 1
        by_width: dict[int, list[Tokens]] = {}
        for prefix in prefixes:
            by_width.setdefault(-(-max(1, len(prefix)) // step) * step, []).append(prefix)
        for width, members in sorted(by_width.items()):
            size = max(1, min(self._at_once[0], self._at_once[1] // width))
            for start in range(0, len(members), size):
                chosen = members[start : start + size]
                states = self._forward([*chosen, *[chosen[0]] * (size - len(chosen))], width)
                yield {prefix: self._kind.of_row(states, row, len(prefix)) for row, prefix in enumerate(chosen)}

    @property
    def _share_kept(self) -> float:
        """Bytes that are kept of each byte of states."""
        whole = _bytes(self._token)
        return _bytes(self._packing.pack(self._token)) / whole if whole else 1.0

    def _store(self, states: dict[Tokens, States]) -> dict[Tokens, States]:
        """Keep states as the policy says, and return them as they are kept: a miss has the bits of a hit."""
        if self._packing.dtype is not None:
            if self.report.error is None:
                self.report.error = max(map(self._packing.error, states.values()))
            states = {prefix: self._packing.pack(own) for prefix, own in states.items()}
        if self.report.policy not in ("full", "lru"):
            return states
        for prefix, own in states.items():
            self._stored[prefix] = own
            self.report.bytes_held += _bytes(own)
        while self.report.policy == "lru" and self.report.bytes_held > (self._budget or 0) and self._stored:
            self.report.bytes_held -= _bytes(self._stored.popitem(last=False)[1])
        return states


def _bytes(states: States) -> int:
    return sum(tensor.nbytes for tensor in states)
