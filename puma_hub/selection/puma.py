"""The strategies ``puma`` and ``puma-seed``: clusters of prompts, and strata of label variance inside each."""

from __future__ import annotations

from dataclasses import replace

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.errors import SelectionError
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.strata import PAPER, SEED, StratifiedPreset, cluster, stratified


def puma(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = PAPER.clusters
) -> np.ndarray:
    """Row numbers of ``budget`` users, with the paper's sizes.

    Args:
        clusters: k of k-means.

    Raises:
        SelectionError: no user has rows, or ``clusters`` is below 1.
    """
    return _select(PAPER, bank, interactions, budget, seed, clusters)


def puma_seed(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = SEED.clusters
) -> np.ndarray:
    """As :func:`puma`, with terciles weighted 1:2:1 and the same budget for every cluster."""
    return _select(SEED, bank, interactions, budget, seed, clusters)


def _select(
    preset: StratifiedPreset, bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, clusters: int
) -> np.ndarray:
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 1:
        raise SelectionError(f"clusters must be a whole number >= 1, got {clusters!r}")
    values = label_variance(bank, interactions)
    labels = cluster(bank.prompts.reshape(len(bank), -1), clusters, seed)
    return stratified(labels, values, budget, replace(preset, clusters=clusters), seed)
