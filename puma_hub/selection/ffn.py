"""The strategies ``ffn-kmeans``, ``ffn-loss`` and ``ffn-variance``: clusters of what prompts do in the source LLM."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.scorer import PersonalizedLM
from puma_hub.selection.clusters import cluster
from puma_hub.selection.ffn_activations import ffn_activations
from puma_hub.selection.kmeans import by_clusters
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.losses import loss_values, required_scorer
from puma_hub.selection.strata import PAPER, stratified


def ffn_kmeans(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    lm: PersonalizedLM | None = None,
    clusters: int = PAPER.clusters,
) -> np.ndarray:
    """Row numbers of ``budget`` users: ``kmeans`` on FFN activations; ``interactions`` are not read.

    Args:
        lm: the scorer of the bank's LLM.
        clusters: k of k-means.

    Raises:
        ConfigurationError: ``lm`` is not given, or ``clusters`` is below 1.
        UnsupportedModelError: the LLM's last layers have no FFN for all prompts.
    """
    return by_clusters(_features(bank, lm, seed), clusters, budget, seed)


def ffn_variance(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    lm: PersonalizedLM | None = None,
    clusters: int = PAPER.clusters,
) -> np.ndarray:
    """As :func:`ffn_kmeans`, with strata of label variance: ``puma`` on FFN activations."""
    values = label_variance(bank, interactions)
    return stratified(cluster(_features(bank, lm, seed), clusters, seed), values, budget, PAPER, seed)


def ffn_loss(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    lm: PersonalizedLM | None = None,
    losses: Mapping[str, float] | None = None,
    clusters: int = PAPER.clusters,
) -> np.ndarray:
    """As :func:`ffn_kmeans`, with strata of loss: computed with ``lm`` unless ``losses`` are given."""
    features = _features(bank, lm, seed)
    values = loss_values(bank, interactions, lm if losses is None else None, losses)
    return stratified(cluster(features, clusters, seed), values, budget, PAPER, seed)


def _features(bank: PromptBank, lm: PersonalizedLM | None, seed: int) -> np.ndarray:
    return ffn_activations(required_scorer(lm, "FFN activations"), bank, seed)
