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
    codes: dict[str, int] = {}
    users = np.array([codes.setdefault(user, len(codes)) for user in user_ids], dtype=np.int64)
    values = auc_by_user(np.asarray(predictions), np.asarray(labels), users)
    found: list[float] = values[np.isfinite(values)].tolist()
    return found


def auc_by_user(predictions: np.ndarray, labels: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The AUC ``(U,)`` of each user from the ranks of their rows; NaN where these are not of two classes.

    AUC = (R - m (m + 1) / 2) / (m n), with R the sum of the ranks of the m rows of the higher label, n the number of
    the others; equal predictions share the mean of their ranks (Mann and Whitney, 1947).

    Args:
        users: the number of each row's user ``(N,)``, from 0 to U - 1.

    Raises:
        ConfigurationError: some predictions are NaN.
    """
    if np.isnan(predictions).any():
        raise ConfigurationError(f"AUC needs numbers, {int(np.isnan(predictions).sum())} predictions are NaN")
    order = np.lexsort((predictions, users))
    user, prediction, label = users[order], predictions[order], labels[order]
    size = int(users.max(initial=-1)) + 1
    rows = np.bincount(user, minlength=size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, user, label)
    np.maximum.at(high, user, label)
    upper = label == high[user]
    m = np.bincount(user, upper, minlength=size)
    two = (low < high) & (m + np.bincount(user, label == low[user], minlength=size) == rows)
    fresh = np.ones(len(user), dtype=bool)
    fresh[1:] = (user[1:] != user[:-1]) | (prediction[1:] != prediction[:-1])
    starts = np.flatnonzero(fresh)
    equal = np.diff([*starts, len(user)])
    ranks = np.repeat(starts + (equal + 1) / 2, equal) - (np.cumsum(rows) - rows)[user]
    sums = np.bincount(user, ranks * upper, minlength=size)
    values = np.full(size, np.nan)
    np.divide(sums - m * (m + 1) / 2, m * (rows - m), out=values, where=two)
    return values


def quadratic_kappa(predicted: np.ndarray, actual: np.ndarray, classes: int) -> float | None:
    """Cohen's kappa with quadratic weights of two arrays ``(N,)`` of class numbers below ``classes``.

    1 is full agreement, 0 what chance gives (Cohen, 1968). None where all are of one class.
    """
    if len(np.unique(np.concatenate([predicted, actual]))) < 2:
        return None
    return float(cohen_kappa_score(actual, predicted, labels=np.arange(classes), weights="quadratic"))
