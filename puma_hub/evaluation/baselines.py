"""Predictions of a rating without a language model."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.linear_model import Ridge

from puma_hub.data.rows import codes, column, numbers

_BIAS_PENALTY = 5.0


def rating_baselines(train: datasets.Dataset, rows: datasets.Dataset) -> dict[str, np.ndarray]:
    """Predict ``rows`` from the labels of ``train`` alone.

    Returns:
        ``global_mean``; ``user_mean``, the global mean for users without training rows; and ``user_item_bias``,
        mean + user bias + item bias by ridge regression on both (Koren, Bell and Volinsky, 2009, eq. 3).
    """
    labels = numbers(train, "label")
    mean = float(labels.mean())
    users, user_of = _codes(train, rows, "user_id")
    items, item_of = _codes(train, rows, "item_id")
    counts = np.bincount(users, minlength=user_of.max(initial=-1) + 1)
    sums = np.bincount(users, labels, minlength=len(counts))
    size = max(len(counts), int(users.max()) + 1)
    means = np.full(size, mean)
    seen = np.flatnonzero(counts)
    means[seen] = sums[seen] / counts[seen]

    columns = size + max(int(items.max()), int(item_of.max(initial=0))) + 1
    design = _one_hot(users, items + size, columns)
    ridge = Ridge(alpha=_BIAS_PENALTY, fit_intercept=False, solver="sparse_cg", tol=1e-8)
    ridge.fit(design, labels - mean)
    return {
        "global_mean": np.full(len(rows), mean),
        "user_mean": means[user_of],
        "user_item_bias": mean + ridge.predict(_one_hot(user_of, item_of + size, columns)),
    }


def _codes(first: datasets.Dataset, second: datasets.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of both as numbers of its distinct values."""
    both = pa.chunked_array([*column(first, name).chunks, *column(second, name).chunks])
    return np.split(codes(both)[0], [len(first)])  # type: ignore[return-value]


def _one_hot(first: np.ndarray, second: np.ndarray, columns: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(first)), 2)
    return sparse.csr_matrix(
        (np.ones(2 * len(first)), (rows, np.stack([first, second], 1).ravel())), (len(first), columns)
    )
