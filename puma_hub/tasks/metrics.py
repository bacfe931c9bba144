"""The figures themselves, as plain functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from puma_hub.errors import ConfigurationError
from puma_hub.tasks import ClickTask, Task

_LEAST_GAIN = 1e-9


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


def scores(task: Task, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
    """RMSE and MAE of ratings, or AUC and user AUC of clicks; None where rows of one class are missing for it."""
    if task.name != ClickTask.name:
        return {"rmse": rmse(predictions, labels), "mae": mae(predictions, labels)}
    by_user = user_aucs(predictions, labels, users)
    return {
        "auc": auc(predictions, labels) if len(np.unique(labels)) == 2 else None,
        "user_auc": float(np.mean(by_user)) if by_user else None,
        "users_with_both_classes": len(by_user),
    }


def missing(metrics: Mapping[str, float | None]) -> list[str]:
    """Why metrics are None, a sentence each."""
    reasons = {
        "auc": "auc is not defined: all labels are of one class",
        "user_auc": "user_auc is not defined: no user has rows of both classes",
    }
    return [reason for name, reason in reasons.items() if name in metrics and metrics[name] is None]


def retention(before: float | None, after: float | None) -> float | None:
    """How much of a personal gain ``before`` a migration is there ``after`` it; None without a gain to keep."""
    if before is None or after is None or not before > _LEAST_GAIN or not math.isfinite(after):
        return None
    return after / before


def main_metric(metrics: Mapping[str, float | None]) -> str:
    """The metric that two ways of predicting the same rows are compared by: RMSE, or user AUC, or AUC without it."""
    if "rmse" in metrics:
        return "rmse"
    return "auc" if metrics["user_auc"] is None else "user_auc"
