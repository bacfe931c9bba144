"""Dividing a budget among clusters, and inside each among strata of a per-user value (paper, selection)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puma_hub.selection.draws import Draw, draw_at_random
from puma_hub.selection.quotas import divide, quantile_bins


@dataclass(frozen=True)
class StratifiedPreset:
    """Sizes of a stratified selection.

    ``clusters``: k of k-means. ``weights``: share of each stratum, from low to high values. ``at_least``: users a
    cluster gets before the rest is divided in proportion to cluster size; None gives every cluster the same.
    ``reserved``: the share of a budget too small for that which is divided evenly in its stead.
    """

    clusters: int
    weights: tuple[float, ...]
    at_least: int | None
    reserved: float = 1.0


def _bell(bins: int) -> tuple[float, ...]:
    """Weights ``exp(-x^2 / 2) + 0.1`` at ``x = linspace(-2, 2, bins)`` (paper, selection)."""
    return tuple(float(np.exp(-(x**2) / 2) + 0.1) for x in np.linspace(-2, 2, bins))


# 15 * 50 of the paper's 2,000 users. An even split of a small budget would be made of odd users from small clusters.
PAPER = StratifiedPreset(clusters=15, weights=_bell(5), at_least=50, reserved=0.375)
SEED = StratifiedPreset(clusters=50, weights=(1.0, 2.0, 1.0), at_least=None)
WITHOUT_STRATA = StratifiedPreset(PAPER.clusters, (1.0,), PAPER.at_least, PAPER.reserved)
"""The paper's sizes, all users of a cluster in one stratum."""


def cluster_budgets(sizes: np.ndarray, budget: int, preset: StratifiedPreset) -> np.ndarray:
    """Users to take from each cluster; sums to ``min(budget, users)``."""
    even = np.ones(len(sizes))
    if preset.at_least is None:
        return divide(budget, even, sizes)
    wanted = preset.at_least * len(sizes)
    first = divide(
        wanted if budget >= wanted else int(preset.reserved * budget), even, np.minimum(sizes, preset.at_least)
    )
    return first + divide(budget - int(first.sum()), sizes, sizes - first)


def stratified(
    labels: np.ndarray,
    values: np.ndarray,
    budget: int,
    preset: StratifiedPreset,
    seed: int,
    draw: Draw = draw_at_random,
) -> np.ndarray:
    """Row numbers of exactly ``min(budget, N)`` users, by cluster ``labels (N,)`` and strata of ``values (N,)``."""
    generator = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    budgets = cluster_budgets(np.array([len(rows) for rows in members]), budget, preset)
    for rows, count in zip(members, budgets):
        bins = quantile_bins(values[rows], len(preset.weights))
        strata = [rows[bins == number] for number in range(len(preset.weights))]
        counts = divide(int(count), preset.weights, [len(stratum) for stratum in strata])
        chosen += [draw(stratum, int(n), generator) for stratum, n in zip(strata, counts)]
    return np.sort(np.concatenate(chosen))
