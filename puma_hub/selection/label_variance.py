"""The variance of each user's labels, by which several strategies tell users apart."""

from __future__ import annotations

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data import check_interactions, rows_by_user
from puma_hub.data.rows import numbers
from puma_hub.errors import SelectionError


def label_variance(bank: PromptBank, interactions: datasets.Dataset) -> np.ndarray:
    """Variance of each user's labels ``(N,)`` in the bank's order; 0 for users with one row or none.

    Raises:
        SelectionError: none of the users has a row.
    """
    rows = check_interactions(interactions)
    labels = numbers(rows, "label")
    by_user = rows_by_user(rows)
    if not any(user in by_user for user in bank.user_ids):
        raise SelectionError("none of the bank's users has rows in the interactions; check the user ids")
    return np.array([labels[by_user[user]].var() if user in by_user else 0.0 for user in bank.user_ids])
