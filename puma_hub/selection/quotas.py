"""Dividing a budget into whole numbers, and values into strata."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def divide(budget: int, weights: Sequence[float] | np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Split ``budget`` in proportion to ``weights`` without exceeding ``sizes``.

    What a full part cannot take goes to the others, again in proportion; the largest remainders are rounded up.
    The result sums to ``min(budget, sum(sizes))`` whatever the weights.
    """
    limits = np.asarray(sizes, dtype=np.int64)
    shares = np.asarray(weights, dtype=np.float64)
    taken = np.zeros_like(limits)
    unfilled = np.ones(len(limits), dtype=bool)
    left = min(int(budget), int(limits.sum()))
    while True:
        weight = np.where(unfilled, shares, 0.0)
        if not weight.sum() > 0:
            weight = unfilled.astype(np.float64)
        ideal = left * weight / (weight.sum() or 1.0)
        full = unfilled & (ideal >= limits)
        if not full.any():
            break
        taken[full] = limits[full]
        left -= int(limits[full].sum())
        unfilled &= ~full
    whole = np.floor(ideal).astype(np.int64)
    rest = left - int(whole.sum())
    largest = np.lexsort((np.arange(len(ideal)), whole - ideal))[:rest]
    whole[largest] += 1
    return np.where(unfilled, whole, taken)


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Put values ``(N,)`` into ``bins`` parts of nearly equal size by rank; ties are broken by position.

    Ranks rather than quantile edges, so that equal values still spread over all parts.
    """
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * bins // max(1, len(values))
