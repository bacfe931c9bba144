"""Predictions of a rating without a language model."""

from __future__ import annotations

import datasets
import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge

_BIAS_PENALTY = 5.0


def rating_baselines(train: datasets.Dataset, rows: datasets.Dataset) -> dict[str, np.ndarray]:
    """Predict ``rows`` from the labels of ``train`` alone.

    Returns:
        ``global_mean``; ``user_mean``, the global mean for users without training rows; and ``user_item_bias``,
        mean + user bias + item bias by ridge regression on both (Koren, Bell and Volinsky, 2009, eq. 3).
    """
    labels = np.asarray(train["label"], dtype=np.float64)
    mean = float(labels.mean())
    users, user_of = _codes(train["user_id"], rows["user_id"])
    items, item_of = _codes(train["item_id"], rows["item_id"])
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


def _codes(first: list[str], second: list[str]) -> tuple[np.ndarray, np.ndarray]:
    numbers = {name: code for code, name in enumerate(dict.fromkeys([*first, *second]))}
    return np.array([numbers[name] for name in first]), np.array([numbers[name] for name in second], dtype=np.int64)


def _one_hot(first: np.ndarray, second: np.ndarray, columns: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(first)), 2)
    return sparse.csr_matrix(
        (np.ones(2 * len(first)), (rows, np.stack([first, second], 1).ravel())), (len(first), columns)
    )
