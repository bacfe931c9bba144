"""``select_users``: which users an adapter trains on."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data import check_interactions, rows_by_user
from puma_hub.data.rows import numbers
from puma_hub.errors import SelectionError
from puma_hub.selection.strata import PAPER, SEED, StratifiedPreset, cluster, stratified


def label_variance(bank: PromptBank, interactions: datasets.Dataset) -> np.ndarray:
    """Variance of each user's labels ``(N,)`` in the bank's order; 0 for users with one row or none."""
    rows = check_interactions(interactions)
    labels = numbers(rows, "label")
    by_user = rows_by_user(rows)
    if not any(user in by_user for user in bank.user_ids):
        raise SelectionError("none of the bank's users has rows in the interactions; check the user ids")
    return np.array([labels[by_user[user]].var() if user in by_user else 0.0 for user in bank.user_ids])


def _random(bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(len(bank))[:budget])


def _stratified(preset: StratifiedPreset) -> Callable[[PromptBank, datasets.Dataset, int, int], np.ndarray]:
    def strategy(bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int) -> np.ndarray:
        values = label_variance(bank, interactions)
        labels = cluster(bank.prompts.reshape(len(bank), -1), preset.clusters, seed)
        return stratified(labels, values, budget, preset, seed)

    return strategy


STRATEGIES: dict[str, Callable[[PromptBank, datasets.Dataset, int, int], np.ndarray]] = {
    "random": _random,
    "puma": _stratified(PAPER),
    "puma-seed": _stratified(SEED),
}


def select_users(
    bank: PromptBank, interactions: datasets.Dataset, strategy: str = "puma", budget: int = 2000, seed: int = 42
) -> list[str]:
    """Choose exactly ``min(budget, users)`` distinct users of ``bank``; the same seed gives the same users.

    Args:
        interactions: training rows of the users.
        strategy: ``puma`` (k-means and variance strata, the paper's sizes), ``puma-seed`` (50 clusters, terciles
            weighted 1:2:1) or ``random``.

    Raises:
        SelectionError: unknown strategy, a budget below 1, an empty bank, or no user with rows.
    """
    if strategy not in STRATEGIES:
        raise SelectionError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise SelectionError(
            f"the budget must be a whole number >= 1, got {budget!r}; an empty selection trains nothing"
        )
    if not len(bank):
        raise SelectionError("the bank is empty; there is nobody to select")
    rows = STRATEGIES[strategy](bank, interactions, min(budget, len(bank)), seed)
    users = bank.user_ids
    return [users[row] for row in rows]
