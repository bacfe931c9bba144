"""Who gets worse: how many users and by how much, beside what noise alone would show.

A user has few held-out rows, so of two systems that are equally good about half of the users get worse on one of them.
What noise shows is computed by flipping signs (Fisher, The Design of Experiments, 1935): if both systems are equally
good for a user, the difference of their squared errors is as likely to be positive as negative in each row. Rows keep
the size of their difference, and signs are drawn many times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from puma_hub.evaluation.report.bootstrap import LEVEL, Interval
from puma_hub.evaluation.report.changes import Changes
from puma_hub.evaluation.report.gains import QUANTILES, quantiles
from puma_hub.evaluation.report.paired import PairedRows

CLEARLY = 1.645  # standard deviations under flipped signs; about 5 % of users get as far by noise
FEWEST_ROWS = math.ceil(CLEARLY**2)
"""Of a user whose rows can show a clear change: the sum of n differences is at most sqrt(n) of these."""
THRESHOLDS = (0.05, 0.1, 0.25, 0.5)
_FLIPS = 200, 1000  # at least, and at most
_ROWS_IN_ALL = 100_000_000  # rows in all flips


def worse(rows: PairedRows, seed: int) -> dict[str, Any]:
    """Users whose squared error rises, and those whose rows show it clearly.

    Returns:
        - ``any``: the share whose error rises at all.
        - ``clearly``: of the ``users`` with three rows or more, the share whose summed difference is above 1.645 of its
          standard deviations under flipped signs, and those below -1.645. ``excess``: the share clearly worse, minus
          the share expected by noise. ``smallest_visible``: the median over users of the change that their rows would
          show.
        - ``changes``: quantiles over users. ``thresholds``: shares of users who change by more.

        Beside each, ``by_noise``: what noise shows, on average and in 95 % of the flips. Shares have Wilson intervals.
        Changes are in units of the source's RMSE; they are None if that is 0.
    """
    changes = Changes.of(rows)
    flips = int(np.clip(_ROWS_IN_ALL // len(changes.differences), *_FLIPS))
    sums, limit = changes.sums(changes.differences), CLEARLY * changes.noise
    testable = changes.rows >= FEWEST_ROWS
    users, able = len(sums), int(testable.sum())
    noise = np.concatenate([_seen(changes, drawn, limit, testable) for drawn in changes.flipped(flips, seed)])
    by_noise = [_range(column) for column in noise.T]
    counts = [int((sums > limit)[testable].sum()), int((sums < -limit)[testable].sum())]
    clearly: dict[str, Any] = {
        "standard_deviations": CLEARLY,
        "users": able,
        "worse": counts[0],
        "better": counts[1],
        "share_worse": _share(counts[0], able).to_dict(),
        "share_better": _share(counts[1], able).to_dict(),
        "by_noise": None,
        "excess": Interval(None).to_dict(),
        "smallest_visible": None,
    }
    if able:
        excess = {end: _less(value, by_noise[1]["expected"]) for end, value in clearly["share_worse"].items()}
        clearly |= {"by_noise": by_noise[1], "excess": excess}
    found: dict[str, Any] = {
        "users": users,
        "flips": flips,
        "any": {
            "count": int((sums > 0).sum()),
            "share": _share(int((sums > 0).sum()), users).to_dict(),
            "by_noise": by_noise[0],
        },
        "clearly": clearly,
        "unit": "RMSE of the source, all rows",
        "changes": None,
        "thresholds": [],
    }
    if not changes.error:
        return found
    relative = changes.relative(sums)
    clearly["smallest_visible"] = float(np.median(changes.relative(limit)[testable])) if able else None
    levels = noise[:, 2 + len(THRESHOLDS) :].mean(axis=0).tolist()
    found["changes"] = {"quantiles": quantiles(relative), "by_noise": dict(zip(map(str, QUANTILES), levels))}
    above = {threshold: int((relative > threshold).sum()) for threshold in THRESHOLDS}
    found["thresholds"] = [
        {"above": threshold, "count": count, "share": _share(count, users).to_dict(), "by_noise": expected}
        for (threshold, count), expected in zip(above.items(), by_noise[2:])
    ]
    return found


def _seen(changes: Changes, sums: np.ndarray, limit: np.ndarray, testable: np.ndarray) -> np.ndarray:
    """Of the users' sums ``(n, U)`` the shares above 0, clearly worse and above the thresholds, and the quantiles."""
    relative = changes.relative(sums)
    clear = (sums > limit)[:, testable]
    shares = [
        (sums > 0).mean(axis=1),
        clear.mean(axis=1) if clear.size else np.zeros(len(sums)),
        *((relative > threshold).mean(axis=1) for threshold in THRESHOLDS),
    ]
    return np.column_stack([*shares, *np.quantile(relative, QUANTILES, axis=1)])


def _range(shares: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(shares, (0.025, 0.975)).tolist()
    return {"expected": float(shares.mean()), "low": low, "high": high}


def _share(count: int, users: int) -> Interval:
    """A share of users with its Wilson interval (Wilson, 1927); resamples of no user would leave it no width."""
    if not users:
        return Interval(None)
    interval = stats.binomtest(count, users).proportion_ci(LEVEL, method="wilson")
    return Interval(count / users, float(interval.low), float(interval.high))


def _less(share: float | None, expected: float) -> float | None:
    return None if share is None else share - expected
