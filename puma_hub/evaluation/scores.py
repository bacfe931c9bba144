"""The figures themselves, as plain functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from puma_hub.errors import ConfigurationError


def rmse(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared error of two arrays ``(N,)``."""
    return float(np.sqrt(np.mean(np.square(predictions - labels))))


def mae(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error of two arrays ``(N,)``."""
    return float(np.mean(np.abs(predictions - labels)))


def auc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve over all rows.

    Raises:
        ConfigurationError: the labels are all of one class.
    """
    if len(np.unique(labels)) < 2:
        raise ConfigurationError("AUC needs rows of both classes, all labels are the same; add rows")
    return float(roc_auc_score(labels, predictions))


def user_auc(predictions: np.ndarray, labels: np.ndarray, user_ids: Sequence[str]) -> tuple[float, int]:
    """Mean of the users' own AUCs, and how many users have rows of both classes.

    Raises:
        ConfigurationError: no user has both.
    """
    users = np.asarray(user_ids, dtype=object)
    order = np.argsort(users, kind="stable")
    cuts = np.flatnonzero(users[order][1:] != users[order][:-1]) + 1
    values = [
        float(roc_auc_score(labels[part], predictions[part]))
        for part in np.split(order, cuts)
        if len(part) and len(np.unique(labels[part])) == 2
    ]
    if not values:
        raise ConfigurationError("user AUC needs at least one user with rows of both classes; add rows")
    return float(np.mean(values)), len(values)
