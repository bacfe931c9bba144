"""Predictions of a label without a language model."""

from __future__ import annotations

import logging

import datasets
import numpy as np

from puma_hub.data import biases
from puma_hub.data.rows import codes_of_both, numbers
from puma_hub.errors import MissingDependencyError
from puma_hub.extensions import BASELINES

logger = logging.getLogger(__name__)


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
    users, user_of = codes_of_both(train, rows, "user_id")
    size = max(int(users.max()), int(user_of.max(initial=0))) + 1
    counts, sums = np.bincount(users, minlength=size), np.bincount(users, labels, minlength=size)
    means = np.full(size, float(labels.mean()))
    np.divide(sums, counts, out=means, where=counts > 0)
    predictions: np.ndarray = means[user_of]
    return predictions


def user_item_bias(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """The mean label, and the biases of :func:`puma_hub.data.biases.user_item_bias`."""
    predictions: np.ndarray = float(numbers(train, "label").mean()) + biases.user_item_bias(train, rows)
    return predictions
