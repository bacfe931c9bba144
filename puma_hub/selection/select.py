"""``select_users``: which users an adapter trains on."""

from __future__ import annotations

from typing import Any

import datasets

from puma_hub.bank import PromptBank
from puma_hub.errors import SelectionError
from puma_hub.extensions import STRATEGIES


def select_users(
    bank: PromptBank,
    interactions: datasets.Dataset,
    strategy: str = "puma",
    budget: int = 2000,
    seed: int = 42,
    **options: Any,
) -> list[str]:
    """Choose exactly ``min(budget, users)`` distinct users of ``bank``; the same seed gives the same users.

    Args:
        interactions: training rows of the users.
        strategy: ``puma`` (k-means and variance strata, the paper's sizes), ``puma-seed`` (50 clusters, terciles
            weighted 1:2:1), ``random``, or another of :data:`puma_hub.extensions.STRATEGIES`.
        options: of the strategy, such as ``clusters=20`` of ``puma``.

    Raises:
        ConfigurationError: there is no such strategy, or it has no such option.
        SelectionError: a budget below 1, an empty bank, no user with rows, or a strategy that chose another number.
    """
    choose = STRATEGIES.bound(strategy, options)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise SelectionError(
            f"the budget must be a whole number >= 1, got {budget!r}; an empty selection trains nothing"
        )
    if not len(bank):
        raise SelectionError("the bank is empty; there is nobody to select")
    wanted = min(budget, len(bank))
    rows = [int(row) for row in choose(bank, interactions, wanted, seed)]
    if len(set(rows)) != len(rows) or len(rows) != wanted:
        raise SelectionError(
            f"the strategy {strategy!r} chose {len(rows)} users, {len(set(rows))} of them distinct, in place of "
            f"{wanted}; it must give the row numbers of as many users as it is asked for"
        )
    users = bank.user_ids
    return [users[row] for row in rows]
