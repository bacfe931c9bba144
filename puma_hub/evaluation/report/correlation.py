"""Pearson's correlation of resampled users, from sums over each user."""

from __future__ import annotations

import numpy as np

_CONSTANT = 1e-9  # of the largest value: what varies less is rounding


def correlation_sums(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """What :func:`correlation` needs the sums of: for each of the values ``(N,)`` 1, x, y, x x, y y and x y.

    Values are standardised; constant ones are NaN.
    """
    x, y = _standardised(first), _standardised(second)
    return [np.ones(len(x)), x, y, x * x, y * y, x * y]


def correlation(totals: np.ndarray) -> np.ndarray:
    """Pearson's correlation ``(R,)`` of the totals ``(R, 6)``; NaN where a side is constant."""
    n, x, y, xx, yy, xy = totals.T
    spread = (xx - x * x / n), (yy - y * y / n)
    varied = (spread[0] > _CONSTANT * n) & (spread[1] > _CONSTANT * n)
    found: np.ndarray = np.where(
        varied, (xy - x * y / n) / np.sqrt(np.where(varied, spread[0] * spread[1], 1.0)), np.nan
    )
    return found.clip(-1.0, 1.0)


def varies(values: np.ndarray) -> bool:
    """Whether values are not all the same, up to rounding."""
    return bool(np.std(values) > _CONSTANT * np.abs(values).max())


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std() if varies(values) else np.full(len(values), np.nan)
