"""Clusters of users by k-means."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from puma_hub.limits import require_whole

MOST_CLUSTERS = 100_000
MOST_FOR_KMEANS = 100_000
"""Beyond so many users k-means goes by small batches (sklearn's ``MiniBatchKMeans``)."""
_RESTARTS = 4
_BATCH = 4096


def cluster(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """k-means labels ``(N,)`` of features ``(N, f)``; never more clusters than distinct rows.

    Raises:
        ConfigurationError: ``clusters`` is no whole number from 1 to 100,000.
    """
    require_whole(clusters, "clusters", MOST_CLUSTERS)
    count = _distinct(features, clusters)
    if len(features) > MOST_FOR_KMEANS:
        found = MiniBatchKMeans(count, random_state=seed, n_init=_RESTARTS, batch_size=_BATCH).fit_predict(features)
    else:
        found = KMeans(count, random_state=seed, n_init=_RESTARTS).fit_predict(features)
    return np.asarray(found)


def _distinct(features: np.ndarray, enough: int) -> int:
    """How many distinct rows there are; no more are looked for once there are ``enough``.

    Rows are told apart by a random linear hash of their bits modulo 2^64, in pieces.
    """
    bits = np.dtype(f"u{features.dtype.itemsize}")
    weights = np.random.default_rng(0).integers(2**63, size=features.shape[1], dtype=np.uint64) * 2 + 1
    found: set[int] = set()
    for start in range(0, len(features), _BATCH):
        piece = np.ascontiguousarray(features[start : start + _BATCH] + 0.0)  # -0.0 is 0.0
        found.update((piece.view(bits).astype(np.uint64) @ weights).tolist())
        if len(found) >= enough:
            return enough
    return len(found)
