"""The personal gain of each user, on the source and on the target."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from puma_hub.evaluation.report.bootstrap import Bootstrap, of_sums
from puma_hub.evaluation.report.correlation import correlation, correlation_sums, varies

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def gains(by_user: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    """How the gains ``(U, 2)`` of users are distributed, and how those on source and target go together."""
    found: dict[str, Any] = {}
    for side, values in zip(("source", "target"), by_user.T):
        found[side] = {"quantiles": quantiles(values), "share_above_0": float(np.mean(values > 0))}
    sums = np.stack(correlation_sums(*by_user.T), axis=1)
    pearson = of_sums(sums, lambda totals: correlation(totals)[:, None])
    return found | {
        "pearson": bootstrap.intervals(pearson, ("pearson",))["pearson"].to_dict(),
        "spearman": rank_correlation(*by_user.T),
    }


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation; None where a side is constant."""
    if len(first) < 2 or not (varies(first) and varies(second)):
        return None
    return float(spearmanr(first, second).statistic)


def quantiles(values: np.ndarray) -> dict[str, float]:
    """The quantiles that reports show, by their share."""
    return {str(share): float(value) for share, value in zip(QUANTILES, np.quantile(values, QUANTILES))}
