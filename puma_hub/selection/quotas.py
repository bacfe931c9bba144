"""Dividing a budget into whole numbers, and drawing users by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def divide(budget: int, weights: Sequence[float] | np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Split ``budget`` in proportion to ``weights`` without exceeding ``sizes``.

    What a full part cannot take goes to the others, again in proportion; remainders go to the largest fractions.
    The result sums to ``min(budget, sum(sizes))`` whatever the weights.
    """
    limits = np.asarray(sizes, dtype=np.int64)
    shares = np.asarray(weights, dtype=np.float64)
    taken = np.zeros_like(limits)
    left = min(int(budget), int(limits.sum()))
    while left > 0:
        open_parts = taken < limits
        weight = np.where(open_parts, shares, 0.0)
        if not weight.sum() > 0:
            weight = open_parts.astype(np.float64)
        ideal = left * weight / weight.sum()
        step = np.minimum(np.floor(ideal).astype(np.int64), limits - taken)
        if not step.any():
            order = np.lexsort((np.arange(len(ideal)), -ideal))
            best = next(int(part) for part in order if open_parts[part])
            step = np.zeros_like(limits)
            step[best] = 1
        taken += step
        left -= int(step.sum())
    return taken


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Put values ``(N,)`` into ``bins`` parts of nearly equal size by rank; ties are broken by position.

    Ranks rather than quantile edges, so that equal values still spread over all parts.
    """
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * bins // max(1, len(values))


def draw(members: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` of ``members`` without replacement, all of them if there are no more."""
    return generator.choice(members, min(count, len(members)), replace=False)
