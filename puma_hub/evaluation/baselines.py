"""Predictions of a label without a language model."""

from __future__ import annotations

import logging

import datasets
import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.linear_model import Ridge

from puma_hub.data.rows import codes, column, numbers
from puma_hub.errors import MissingDependencyError
from puma_hub.extensions import BASELINES

logger = logging.getLogger(__name__)

_BIAS_PENALTY = 5.0


def baseline_predictions(train: datasets.Dataset, rows: datasets.Dataset) -> dict[str, np.ndarray]:
    """The predictions of all :data:`puma_hub.extensions.BASELINES` for ``rows``, from the labels of ``train`` only.

    Returns:
        For each baseline, by name, predictions float64 ``(N,)``. Baselines whose package is not installed are left
        out, and named in the log.
    """
    found = {}
    for name in BASELINES:
        try:
            found[name] = BASELINES.bound(name, {})(train, rows)
        except MissingDependencyError as error:
            logger.info("the baseline %s is left out: %s", name, error)
    return found


def global_mean(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """The mean label of ``train``."""
    return np.full(len(rows), float(numbers(train, "label").mean()))


def user_mean(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """The mean label of the row's user, or the global mean for users without training rows."""
    labels = numbers(train, "label")
    users, user_of = _codes(train, rows, "user_id")
    size = max(int(users.max()), int(user_of.max(initial=0))) + 1
    counts, sums = np.bincount(users, minlength=size), np.bincount(users, labels, minlength=size)
    means = np.full(size, float(labels.mean()))
    np.divide(sums, counts, out=means, where=counts > 0)
    predictions: np.ndarray = means[user_of]
    return predictions


def user_item_bias(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """Mean + user bias + item bias by ridge regression on both (Koren, Bell and Volinsky, 2009, eq. 3)."""
    labels = numbers(train, "label")
    mean = float(labels.mean())
    users, user_of = _codes(train, rows, "user_id")
    items, item_of = _codes(train, rows, "item_id")
    first_item = max(int(users.max()), int(user_of.max(initial=0))) + 1
    columns = first_item + max(int(items.max()), int(item_of.max(initial=0))) + 1
    ridge = Ridge(alpha=_BIAS_PENALTY, fit_intercept=False, solver="sparse_cg", tol=1e-8)
    ridge.fit(_one_hot(users, items + first_item, columns), labels - mean)
    predictions: np.ndarray = mean + ridge.predict(_one_hot(user_of, item_of + first_item, columns))
    return predictions


def _codes(first: datasets.Dataset, second: datasets.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of both datasets as codes of its distinct values."""
    both = pa.chunked_array([*column(first, name).chunks, *column(second, name).chunks])
    return np.split(codes(both)[0], [len(first)])  # type: ignore[return-value]


def _one_hot(first: np.ndarray, second: np.ndarray, columns: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(first)), 2)
    return sparse.csr_matrix(
        (np.ones(2 * len(first)), (rows, np.stack([first, second], 1).ravel())), (len(first), columns)
    )
