"""Metrics, which way each is better, and what is kept of a gain. Known without torch: cards are read by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puma_hub.errors import ConfigurationError


@dataclass(frozen=True)
class Metric:
    """A figure that a task reports under ``name``.

    ``undefined`` ends the sentence "... is not defined: ...", for rows of which a task gives None.
    """

    name: str
    lower_is_better: bool
    undefined: str = "these rows do not tell"


RMSE = Metric("rmse", lower_is_better=True)
MAE = Metric("mae", lower_is_better=True)
USER_AUC = Metric("user_auc", lower_is_better=False, undefined="no user has rows of both classes")
AUC = Metric("auc", lower_is_better=False, undefined="all labels are of one class")
QUADRATIC_KAPPA = Metric(
    "quadratic_kappa", lower_is_better=False, undefined="all labels and predictions are of one value"
)

_LEAST_GAIN = 1e-9
_LOWER_IS_BETTER = {metric.name: metric.lower_is_better for metric in (RMSE, MAE, USER_AUC, AUC, QUADRATIC_KAPPA)}


def lower_is_better(name: str) -> bool | None:
    """The direction of a metric; None where no task is known that reports it."""
    return _LOWER_IS_BETTER.get(name)


def require_direction(metric: Metric) -> None:
    """Refuse a metric that is known to be better in the other direction.

    Raises:
        ConfigurationError: it is.
    """
    known = _LOWER_IS_BETTER.get(metric.name, metric.lower_is_better)
    if known != metric.lower_is_better:
        raise ConfigurationError(
            f"the metric {metric.name!r} is known already, and better when it is {'lower' if known else 'higher'}; "
            "choose another name"
        )


def retention(before: float | None, after: float | None) -> float | None:
    """How much of a personal gain ``before`` a migration is there ``after`` it; None without a gain to keep."""
    if before is None or after is None or not before > _LEAST_GAIN or not math.isfinite(after):
        return None
    return after / before


def make_known(metric: Metric) -> None:
    """Let figures of this name be compared."""
    _LOWER_IS_BETTER[metric.name] = metric.lower_is_better
