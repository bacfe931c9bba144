"""The figures themselves, as plain functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import cohen_kappa_score, roc_auc_score

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
    values = user_aucs(predictions, labels, user_ids)
    if not values:
        raise ConfigurationError("user AUC needs at least one user with rows of both classes; add rows")
    return float(np.mean(values)), len(values)


def user_aucs(predictions: np.ndarray, labels: np.ndarray, user_ids: Sequence[str]) -> list[float]:
    """The AUC of each user who has rows of both classes."""
    users = np.asarray(user_ids, dtype=object)
    order = np.argsort(users, kind="stable")
    cuts = np.flatnonzero(users[order][1:] != users[order][:-1]) + 1
    return [
        float(roc_auc_score(labels[part], predictions[part]))
        for part in np.split(order, cuts)
        if len(part) and len(np.unique(labels[part])) == 2
    ]


def quadratic_kappa(predicted: np.ndarray, actual: np.ndarray, classes: int) -> float | None:
    """Cohen's kappa with quadratic weights of two arrays ``(N,)`` of class numbers below ``classes``.

    1 is full agreement, 0 what chance gives (Cohen, 1968). None where all are of one class.
    """
    if len(np.unique(np.concatenate([predicted, actual]))) < 2:
        return None
    return float(cohen_kappa_score(actual, predicted, labels=np.arange(classes), weights="quadratic"))
