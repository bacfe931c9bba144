"""The strategies ``kmeans``, ``kmeans-pca`` and ``kmeans-fps``: clusters of prompts, without strata."""

from __future__ import annotations

from functools import partial

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.limits import MAX_HIDDEN_SIZE, require_whole
from puma_hub.selection.clusters import cluster
from puma_hub.selection.draws import Draw, draw_at_random, farthest_points
from puma_hub.selection.features import flat_prompts, principal_components
from puma_hub.selection.strata import WITHOUT_STRATA, stratified


def kmeans(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = WITHOUT_STRATA.clusters
) -> np.ndarray:
    """Row numbers of ``budget`` users, drawn at random in each cluster; ``interactions`` are not read.

    Args:
        clusters: k of k-means.

    Raises:
        ConfigurationError: ``clusters`` is below 1.
    """
    return by_clusters(flat_prompts(bank), clusters, budget, seed)


def kmeans_pca(
    bank: PromptBank,
    interactions: datasets.Dataset,
    budget: int,
    seed: int,
    *,
    clusters: int = WITHOUT_STRATA.clusters,
    components: int = 64,
) -> np.ndarray:
    """As :func:`kmeans`, on the first ``components`` principal components of the prompts.

    Raises:
        ConfigurationError: ``clusters`` or ``components`` is below 1.
    """
    require_whole(components, "components", MAX_HIDDEN_SIZE)
    return by_clusters(principal_components(flat_prompts(bank), components, seed), clusters, budget, seed)


def kmeans_fps(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, clusters: int = WITHOUT_STRATA.clusters
) -> np.ndarray:
    """As :func:`kmeans`, with farthest point sampling in each cluster."""
    prompts = flat_prompts(bank)
    return by_clusters(prompts, clusters, budget, seed, partial(farthest_points, prompts))


def by_clusters(features: np.ndarray, clusters: int, budget: int, seed: int, draw: Draw = draw_at_random) -> np.ndarray:
    """Row numbers of ``budget`` users by k-means of ``features (N, f)``, without strata."""
    labels = cluster(features, clusters, seed)
    return stratified(labels, np.zeros(len(features)), budget, WITHOUT_STRATA, seed, draw)
