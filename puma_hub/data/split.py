"""Splitting each user's rows chronologically (the paper's data section)."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from puma_hub.data.cell_values import as_text
from puma_hub.data.held_out import with_description
from puma_hub.data.rows import codes, column, take_rows
from puma_hub.data.schema import of_users
from puma_hub.data.times import as_times, order_key
from puma_hub.errors import ConfigurationError


@dataclass(frozen=True)
class TimeOrder:
    """Rows sorted by user id, then by time. Ties, and rows without a timestamp, keep their order.

    Of another column of ids than ``user_id``, such as ``item_id``, items take the place of users.

    Attributes:
        rows: ``(N,)`` row numbers in that order.
        position: ``(N,)`` for each of ``rows``, its position among the user's rows, counted from 0.
        count: ``(N,)`` for each of ``rows``, the number of rows of its user.
    """

    rows: np.ndarray
    position: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, rows: datasets.Dataset, by: str = "user_id") -> TimeOrder:
        user_of, names = codes(as_text(column(rows, by), by))
        rank = np.empty(len(names), dtype=np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        user_of = rank[user_of]
        keys = [user_of]
        if "timestamp" in rows.column_names and len(rows):
            keys.insert(0, order_key(as_times(column(rows, "timestamp"))))
        order = np.lexsort(keys)
        counts = np.bincount(user_of, minlength=len(names))
        starts = np.cumsum(counts) - counts
        sorted_users = user_of[order]
        return cls(order, np.arange(len(order)) - starts[sorted_users], counts[sorted_users])

    def first_part(self, share: float) -> np.ndarray:
        """A mask ``(N,)`` of the first ``share`` of each user's rows, rounded down, but at least one row."""
        return self.position < np.maximum(1, np.floor(self.count * share + 1e-9))


def chronological_split(rows: datasets.Dataset, held_out: float = 0.2) -> datasets.DatasetDict:
    """Split off the last ``held_out`` share of each user's rows as ``validation``.

    Rows are ordered by ``timestamp`` if they have one; otherwise the dataset's order counts. At least one row of each
    user stays in ``train``, so a user with a single row has no held-out row.
    """
    if not 0.0 < held_out < 1.0:
        raise ConfigurationError(f"held_out must lie between 0 and 1, got {held_out}")
    order = TimeOrder.of(rows)
    kept = order.first_part(1.0 - held_out)
    rows = with_description(rows, f"the last {held_out:g} of each user's rows held out")
    return datasets.DatasetDict(
        {"train": take_rows(rows, order.rows[kept]), "validation": take_rows(rows, order.rows[~kept])}
    )


def most_recent(rows: datasets.Dataset, limit: int) -> datasets.Dataset:
    """Keep the last ``limit`` rows of each user."""
    if limit < 1:
        raise ConfigurationError(f"rows per user must be at least 1, got {limit}")
    if not len(rows):
        return rows
    order = TimeOrder.of(rows)
    chosen = order.rows[order.position >= order.count - limit]
    return take_rows(with_description(rows, f"the {limit} most recent rows of each user"), chosen)


def sample_users(rows: datasets.Dataset, users: int, seed: int) -> datasets.Dataset:
    """Keep all rows of ``users`` users drawn at random, or of all users if there are fewer."""
    if users < 1:
        raise ConfigurationError(f"the number of users must be at least 1, got {users}")
    names = sorted(codes(as_text(column(rows, "user_id"), "user_id"))[1])
    if users >= len(names):
        return rows
    rows = with_description(rows, f"{users} users drawn with seed {seed}")
    return of_users(rows, np.random.default_rng(seed).choice(names, users, replace=False).tolist())


def sample_users_of_splits(splits: datasets.DatasetDict, users: int, seed: int) -> datasets.DatasetDict:
    """As :func:`sample_users`, of users who have rows in ``train``."""
    train = sample_users(splits["train"], users, seed)
    names = codes(as_text(column(train, "user_id"), "user_id"))[1]
    others = {name: of_users(rows, names) for name, rows in splits.items() if name != "train"}
    return datasets.DatasetDict({"train": train, **others})
