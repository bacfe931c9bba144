"""Predictions of the same held-out rows on source and target LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from puma_hub.data.rows import codes
from puma_hub.errors import InteractionsError, MismatchError, NotFiniteError
from puma_hub.evaluation.compare import Controls
from puma_hub.tasks import Task

_MOST_VALUES = 100  # of labels that count as decisions, where the task does not say which labels there are


@dataclass(frozen=True)
class PairedRows:
    """Rows sorted by user, who have numbers instead of ids: nothing computed from them can name anyone.

    ``users`` int64 ``(N,)`` are the numbers, from 0 to U - 1 in the order of the users' first rows. ``labels`` and the
    predictions ``own``, ``mean`` and ``shuffled`` of ``source`` and ``target`` are float64 ``(N,)``.
    """

    task: Task
    users: np.ndarray
    labels: np.ndarray
    source: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, before: Controls, after: Controls) -> PairedRows:
        """The rows of two banks.

        Raises:
            MismatchError: the rows or the tasks differ.
            InteractionsError: there is no row, or a label is not finite.
            NotFiniteError: a prediction is not finite.
        """
        if before.task != after.task or before.row_users != after.row_users:
            raise MismatchError("source and target predict other rows, or for other tasks; predict the same on both")
        if not np.array_equal(before.labels, after.labels, equal_nan=True):
            raise MismatchError("the labels of source and target differ; predict the same rows on both")
        if not len(before.labels):
            raise InteractionsError("a report needs rows, got none")
        if not np.isfinite(before.labels).all():
            raise InteractionsError(
                f"{int((~np.isfinite(before.labels)).sum())} labels are NaN or infinite; leave them out"
            )
        for side, controls in (("source", before), ("target", after)):
            for name, values in controls.predictions.items():
                if not np.isfinite(values).all():
                    raise NotFiniteError(
                        f"{int((~np.isfinite(values)).sum())} of {len(values)} predictions of the {side} with {name} "
                        "prompts are NaN or infinite; load the LLM in a wider dtype"
                    )
        users = codes(pa.chunked_array([pa.array(before.row_users, pa.large_string())]))[0]
        order = np.argsort(users, kind="stable")
        sides = [
            {name: np.asarray(values, np.float64)[order] for name, values in controls.predictions.items()}
            for controls in (before, after)
        ]
        return cls(before.task, users[order], np.asarray(before.labels, np.float64)[order], *sides)

    @cached_property
    def rows(self) -> np.ndarray:
        """The number of rows of each user, int64 ``(U,)``."""
        return np.bincount(self.users)

    def sums(self, *values: np.ndarray) -> np.ndarray:
        """Sums over each user's rows of ``values``, each ``(N,)``: float64 ``(U, len(values))``."""
        return np.stack([np.bincount(self.users, one, minlength=len(self.rows)) for one in values], axis=1)

    @property
    def predicted(self) -> dict[tuple[str, str], np.ndarray]:
        """All predictions, by side and name."""
        sides = {"source": self.source, "target": self.target}
        return {(side, name): values for side, named in sides.items() for name, values in named.items()}

    @cached_property
    def values(self) -> np.ndarray | None:
        """The values that labels can have, rising; where the task does not say, those that occur, if they are few."""
        known = self.task.label_values
        found = np.unique(self.labels) if known is None else np.asarray(known, np.float64)
        return found if known is not None or len(found) <= _MOST_VALUES else None

    def decisions(self, numbers: np.ndarray) -> np.ndarray | None:
        """The number of the value nearest to each of ``numbers (N,)``, the lower one half way between two."""
        if self.values is None:
            return None
        return np.searchsorted((self.values[1:] + self.values[:-1]) / 2, numbers)

    @cached_property
    def are_probabilities(self) -> bool:
        """Whether labels are 0 and 1, and own predictions lie between."""
        between = all(named["own"].min() >= 0.0 and named["own"].max() <= 1.0 for named in (self.source, self.target))
        return between and self.values is not None and np.array_equal(self.values, (0.0, 1.0))
