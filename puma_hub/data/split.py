"""Chronological splits inside each user (paper, data section)."""

from __future__ import annotations

import math

import datasets
import numpy as np

from puma_hub.data.rows import take_rows
from puma_hub.data.schema import of_users, rows_by_user
from puma_hub.errors import ConfigurationError


def _in_time(rows: datasets.Dataset) -> list[np.ndarray]:
    """Row numbers by user, oldest first; users in the order of their ids, ties in the dataset's order."""
    times = np.asarray(rows["timestamp"]) if "timestamp" in rows.column_names else np.zeros(len(rows))
    by_user = rows_by_user(rows)
    return [by_user[user][np.argsort(times[by_user[user]], kind="stable")] for user in sorted(by_user)]


def chronological_split(rows: datasets.Dataset, held_out: float = 0.2) -> datasets.DatasetDict:
    """Split off the last ``held_out`` share of each user's rows as ``validation``.

    Rows are ordered by ``timestamp`` where there is one, else as they stand. At least one row of each user
    stays in ``train``: a user with a single row has no held-out row.
    """
    if not 0.0 < held_out < 1.0:
        raise ConfigurationError(f"held_out must lie between 0 and 1, got {held_out}")
    train, validation = [], []
    for numbers in _in_time(rows):
        cut = max(1, math.floor(len(numbers) * (1.0 - held_out) + 1e-9))
        train.append(numbers[:cut])
        validation.append(numbers[cut:])
    parts = {"train": np.concatenate(train), "validation": np.concatenate(validation)}
    return datasets.DatasetDict({name: take_rows(rows, numbers) for name, numbers in parts.items()})


def most_recent(rows: datasets.Dataset, limit: int) -> datasets.Dataset:
    """Keep the last ``limit`` rows of each user."""
    if limit < 1:
        raise ConfigurationError(f"rows per user must be at least 1, got {limit}")
    if not len(rows):
        return rows
    return take_rows(rows, np.concatenate([numbers[-limit:] for numbers in _in_time(rows)]))


def sample_users(rows: datasets.Dataset, users: int, seed: int) -> datasets.Dataset:
    """Keep all rows of ``users`` users drawn at random; all users when there are fewer."""
    if users < 1:
        raise ConfigurationError(f"the number of users must be at least 1, got {users}")
    names = sorted(rows_by_user(rows))
    if users >= len(names):
        return rows
    return of_users(rows, np.random.default_rng(seed).choice(names, users, replace=False).tolist())
