"""The strategy ``random``."""

from __future__ import annotations

import datasets
import numpy as np

from puma_hub.bank import PromptBank


def at_random(bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int) -> np.ndarray:
    """Row numbers of ``budget`` users, every user with the same chance."""
    return np.sort(np.random.default_rng(seed).permutation(len(bank))[:budget])
