"""How each user's squared error changes from source to target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from puma_hub.evaluation.report.paired import PairedRows

_AT_ONCE = 4_000_000  # rows in memory


@dataclass(frozen=True)
class Changes:
    """Differences of squared errors, sorted by user.

    ``differences (N,)``: the target's squared error of a row minus the source's. ``starts (U,)``: where each user's
    rows begin. ``error``: the source's RMSE, the unit in which changes are told.
    """

    differences: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    error: float

    @classmethod
    def of(cls, rows: PairedRows) -> Changes:
        before, after = (np.square(side["own"] - rows.labels) for side in (rows.source, rows.target))
        return cls(after - before, np.cumsum(rows.rows) - rows.rows, rows.rows, float(np.sqrt(before.mean())))

    def sums(self, differences: np.ndarray) -> np.ndarray:
        """Sums over each user's rows, of differences ``(..., N)``."""
        found: np.ndarray = np.add.reduceat(differences, self.starts, axis=-1)
        return found

    @property
    def noise(self) -> np.ndarray:
        """The standard deviation ``(U,)`` of each user's sum under flipped signs: the root of the sum of squares."""
        return np.sqrt(self.sums(np.square(self.differences)))

    def relative(self, sums: np.ndarray) -> np.ndarray:
        """Each user's change in units of the source's RMSE.

        It is by how much the RMSE of all would rise if the mean squared error of all rose as this user's does; 0 if
        the source has no error.
        """
        if not self.error:
            return np.zeros(sums.shape)
        change: np.ndarray = np.sqrt(np.maximum(1.0 + sums / self.rows / self.error**2, 0.0)) - 1.0
        return change

    def flipped(self, flips: int, seed: int) -> Iterator[np.ndarray]:
        """The users' sums ``(n, U)`` with random signs, ``flips`` of them in all."""
        generator, at_once = np.random.default_rng(seed), max(1, _AT_ONCE // len(self.differences))
        for start in range(0, flips, at_once):
            size = min(at_once, flips - start), len(self.differences)
            yield self.sums(self.differences * (2.0 * generator.integers(0, 2, size, dtype=np.int8) - 1.0))
