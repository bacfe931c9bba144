"""The variance of each user's labels, by which several strategies tell users apart."""

from __future__ import annotations

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data import check_interactions
from puma_hub.data.rows import codes, column, numbers
from puma_hub.errors import SelectionError


def label_variance(bank: PromptBank, interactions: datasets.Dataset) -> np.ndarray:
    """Variance of each user's labels, float64 ``(N,)`` in the bank's order; 0 for users with one row or none.

    Raises:
        SelectionError: none of the users has a row.
    """
    rows = check_interactions(interactions)
    user_of, names = codes(column(rows, "user_id"))
    labels = numbers(rows, "label")
    counts = np.bincount(user_of)
    means = np.bincount(user_of, labels) / counts
    variances = np.bincount(user_of, np.square(labels - means[user_of])) / counts
    place = bank.index.rows(names)
    known = place >= 0
    if not known.any():
        raise SelectionError("none of the bank's users has rows in the interactions; check the user ids")
    found = np.zeros(len(bank))
    found[place[known]] = variances[known]
    return found
