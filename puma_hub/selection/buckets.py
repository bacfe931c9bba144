"""The strategies ``variance`` and ``loss``: strata of all users, without clusters."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.scorer import PersonalizedLM
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.losses import loss_values
from puma_hub.selection.strata import PAPER, stratified


def variance(bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int) -> np.ndarray:
    """Row numbers of ``budget`` users by the paper's five strata of label variance.

    Raises:
        SelectionError: no user has rows.
    """
    return _by_strata(label_variance(bank, interactions), budget, seed)


def loss(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    lm: PersonalizedLM | None = None,
    losses: Mapping[str, float] | None = None,
) -> np.ndarray:
    """As :func:`variance`, with strata of the source LLM's loss on each user's rows.

    Args:
        lm: the scorer of the bank's LLM; or else
        losses: what :func:`puma_hub.selection.user_losses` returned.
    """
    return _by_strata(loss_values(bank, interactions, lm, losses), budget, seed)


def _by_strata(values: np.ndarray, budget: int, seed: int) -> np.ndarray:
    return stratified(np.zeros(len(values), np.int64), values, budget, PAPER, seed)
