"""The strategies ``puma``, ``puma-seed`` and ``kmeans-loss``: clusters of prompts, and strata of a value in each."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.scorer import PersonalizedLM
from puma_hub.selection.clusters import cluster
from puma_hub.selection.features import flat_prompts
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.losses import loss_values
from puma_hub.selection.strata import PAPER, SEED, stratified


def puma(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = PAPER.clusters
) -> np.ndarray:
    """Row numbers of ``budget`` users by clusters and strata of label variance, with the paper's sizes.

    Args:
        clusters: k of k-means.

    Raises:
        SelectionError: no user has rows.
        ConfigurationError: ``clusters`` is below 1.
    """
    values = label_variance(bank, interactions)
    return stratified(cluster(flat_prompts(bank), clusters, seed), values, budget, PAPER, seed)


def puma_seed(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = SEED.clusters
) -> np.ndarray:
    """As :func:`puma`, with terciles weighted 1:2:1 and the same budget for every cluster."""
    values = label_variance(bank, interactions)
    return stratified(cluster(flat_prompts(bank), clusters, seed), values, budget, SEED, seed)


def kmeans_loss(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    clusters: int = PAPER.clusters,
    lm: PersonalizedLM | None = None,
    losses: Mapping[str, float] | None = None,
) -> np.ndarray:
    """As :func:`puma`, with strata of the source LLM's loss; ``lm`` or ``losses`` as of ``loss``."""
    values = loss_values(bank, interactions, lm, losses)
    return stratified(cluster(flat_prompts(bank), clusters, seed), values, budget, PAPER, seed)
