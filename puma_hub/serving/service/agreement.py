"""How far two versions agree on the same rows, from sums that hold no row and no user."""

from __future__ import annotations

import math
from typing import Any

from puma_hub.serving.service.backend import Scored


class Agreement:
    """Scores of two versions, added up as they come (means and co-moments by Welford's update).

    Args:
        stable, candidate: names of the versions.
    """

    def __init__(self, stable: str, candidate: str) -> None:
        self.stable, self.candidate = stable, candidate
        self.rows = self.left_out = self.same = 0
        self._means = [0.0, 0.0]
        self._moments = [0.0, 0.0, 0.0]  # stable, candidate, both
        self._absolute = 0.0

    def add(self, stable: Scored, candidate: Scored) -> bool:
        """Add a row's scores by both; whether the same answer is the most likely one."""
        one, two = float(stable["score"]), float(candidate["score"])
        same = _answer(stable) == _answer(candidate)
        self.rows += 1
        self.same += same
        before = one - self._means[0], two - self._means[1]
        self._means = [mean + change / self.rows for mean, change in zip(self._means, before)]
        after = one - self._means[0], two - self._means[1]
        changes = before[0] * after[0], before[1] * after[1], before[0] * after[1]
        self._moments = [moment + change for moment, change in zip(self._moments, changes)]
        self._absolute += abs(two - one)
        return same

    def leave_out(self, rows: int) -> None:
        """Rows that only one version scored, or one with the mean prompt, or for which there was no time."""
        self.left_out += rows

    def report(self) -> dict[str, Any]:
        """``drift`` is the candidate's mean score minus the stable version's. None where a figure is not defined."""
        rows, spreads = self.rows, self._moments[0] * self._moments[1]
        return {
            "stable": self.stable,
            "candidate": self.candidate,
            "rows": rows,
            "left_out": self.left_out,
            "same_answer": self.same / rows if rows else None,
            "drift": self._means[1] - self._means[0] if rows else None,
            "mean_absolute_difference": self._absolute / rows if rows else None,
            "pearson": self._moments[2] / math.sqrt(spreads) if spreads > 0 else None,
        }

    def __str__(self) -> str:
        found = self.report()
        if not self.rows:
            return f"shadow: no row was scored by both {self.stable} and {self.candidate}; {self.left_out} left out"
        pearson = "not defined" if found["pearson"] is None else f"{found['pearson']:.4f}"
        return (
            f"shadow: {self.rows} rows by {self.stable} and {self.candidate}: same answer {found['same_answer']:.1%}, "
            f"drift {found['drift']:+.4f}, mean absolute difference {found['mean_absolute_difference']:.4f}, "
            f"correlation {pearson}; {self.left_out} left out"
        )


def _answer(scored: Scored) -> str:
    """The most likely answer."""
    distribution = scored["distribution"]
    return max(distribution, key=distribution.__getitem__)
