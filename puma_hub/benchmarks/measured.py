"""What a benchmark finds, and how long things take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Measured:
    """One figure beside the straightforward way and the limit, all measured in the same run.

    Args:
        what: is measured.
        unit: such as ``rows/s``; seconds and bytes are better when small, all others when large.
        ours, straightforward, limit: in that unit; None where there is no such thing.
        note: how it was measured, in a few words.
    """

    what: str
    unit: str
    ours: float
    straightforward: float | None = None
    limit: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the straightforward way."""
        return None if self.straightforward is None else self._better(self.ours, self.straightforward)

    @property
    def share(self) -> float | None:
        """The share of the limit that is reached."""
        return None if self.limit is None else self._better(self.ours, self.limit)

    def _better(self, ours: float, other: float) -> float:
        return other / ours if self.unit in ("s", "ms", "GB") else ours / other

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "share": self.share}


def seconds_of(function: Callable[[], Any], budget: float, device: torch.device | str = "cpu") -> float:
    """The least seconds of a call, of as many as fit into ``budget`` seconds, at least one; one before warms up."""
    waits = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    function()
    waits()
    least, began, calls = float("inf"), time.perf_counter(), 0
    while not calls or time.perf_counter() - began < budget:
        start = time.perf_counter()
        function()
        waits()
        least = min(least, time.perf_counter() - start)
        calls += 1
    return least


def matrix_rate(dtype: torch.dtype, device: torch.device | str, rows: int, size: int, wide: int) -> float:
    """FLOP/s of a bare product ``(rows, size) @ (size, wide)``, the best of half a second."""
    left, right = torch.randn(rows, size), torch.randn(size, wide)
    left, right = (one.to(device=device, dtype=dtype) for one in (left, right))
    out = torch.empty(rows, wide, dtype=dtype, device=device)
    return 2.0 * rows * size * wide / seconds_of(lambda: torch.mm(left, right, out=out), 0.5, device)
