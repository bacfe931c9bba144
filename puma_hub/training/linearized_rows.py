"""Rows' predictions to first order in their users' offsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinearizedRows:
    """Rows' predictions to first order in their users' offsets, in units of the label's standard deviation.

    ``gradients (n, l * d)`` and ``lacking (n,)``, label minus prediction, both float64; ``users (n,)``;
    ``deviations (n,)``, the label's standard deviation, up to a factor that all rows share.
    """

    gradients: np.ndarray
    lacking: np.ndarray
    users: np.ndarray
    deviations: np.ndarray

    def take(self, numbers: np.ndarray) -> LinearizedRows:
        return LinearizedRows(
            self.gradients[numbers], self.lacking[numbers], self.users[numbers], self.deviations[numbers]
        )

    def by_user(self) -> Iterator[tuple[int, LinearizedRows]]:
        """Each user with the user's rows; users rise."""
        order = np.argsort(self.users, kind="stable")
        numbers, starts = np.unique(self.users[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:])):
            yield number, self.take(rows)
