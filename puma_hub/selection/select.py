"""``select_users``: which users an adapter trains on."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.bank import PromptBank
from puma_hub.errors import SelectionError, shown
from puma_hub.extensions import STRATEGIES


def select_users(
    bank: PromptBank,
    interactions: datasets.Dataset,
    strategy: str = "puma",
    budget: int = 2000,
    seed: int = 42,
    *,
    among: int | None = None,
    **options: Any,
) -> list[str]:
    """Choose exactly ``min(budget, users)`` distinct users of ``bank``; the same seed gives the same users.

    Args:
        interactions: training rows of the users. A user without rows has variance and loss 0.
        strategy: ``puma`` (k-means and variance strata, the paper's sizes), or another of
            :data:`puma_hub.extensions.STRATEGIES`; docs/selection.md compares them.
        among: choose among so many users, drawn at random: for banks whose prompts do not fit into memory. A cluster
            with a share ``p`` of all users has ``p`` plus or minus ``sqrt(p (1 - p) / among)`` of these.
        options: of the strategy, such as ``clusters=20`` of ``puma``. Strategies that ask the source LLM take its
            scorer, ``lm=``.

    Raises:
        ConfigurationError: there is no such strategy, it has no such option, or an option cannot be used or is
            missing.
        SelectionError: a budget below 1 or above ``among``, prompts that do not fit into memory, an empty bank, no user
            with rows, or a strategy that chose another number.
        MismatchError: ``lm`` scores prompts of another LLM, template or task.
    """
    choose = STRATEGIES.bound(strategy, options)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise SelectionError(
            f"the budget must be a whole number >= 1, got {budget!r}; an empty selection trains nothing"
        )
    if not len(bank):
        raise SelectionError("the bank is empty; there is nobody to select")
    bank = bank if among is None else _drawn(bank, among, budget, seed)
    wanted = min(budget, len(bank))
    rows = [int(row) for row in choose(bank, interactions, wanted, seed)]
    if len(set(rows)) != len(rows) or len(rows) != wanted:
        raise SelectionError(
            f"the strategy {strategy!r} chose {len(rows)} users, {len(set(rows))} of them distinct, in place of "
            f"{wanted}; it must give the row numbers of as many users as it is asked for"
        )
    chosen: list[str] = bank.index.ids.take(pa.array(rows, pa.int64())).to_pylist()
    return chosen


def _drawn(bank: PromptBank, among: int, budget: int, seed: int) -> PromptBank:
    """The bank of ``among`` users, each with the same chance, in the order of the bank."""
    if isinstance(among, bool) or not isinstance(among, int) or among < budget:
        raise SelectionError(f"{budget} users are to be chosen among {shown(among)}; give at least as many")
    if among >= len(bank):
        return bank
    # Another stream than the strategies', which are given the seed too.
    drawn = np.sort(np.random.default_rng([seed, 1]).choice(len(bank), among, replace=False))
    return bank.select(bank.index.ids.take(pa.array(drawn)).to_pylist())
