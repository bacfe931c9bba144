"""What clusters are made of: the prompts themselves, or their principal components."""

from __future__ import annotations

import numpy as np
import psutil
from sklearn.decomposition import PCA

from puma_hub.bank import PromptBank
from puma_hub.errors import SelectionError

FIT_USERS = 50_000
"""Principal components are fitted on at most so many users, drawn at random."""
_ROWS_AT_ONCE = 16_384


def flat_prompts(bank: PromptBank) -> np.ndarray:
    """The prompts as float32 ``(N, l * d)``.

    Raises:
        SelectionError: they do not fit into the free memory.
    """
    length, size = bank.shape
    needed, free = 4 * len(bank) * length * size, int(psutil.virtual_memory().available)
    if bank.stored.stamp is not None and needed > free:
        raise SelectionError(
            f"the prompts of {len(bank)} users take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; "
            "select among some of them, drawn at random: among=1_000_000 or --among 1000000"
        )
    return bank.prompts.reshape(len(bank), -1)


def principal_components(features: np.ndarray, components: int, seed: int) -> np.ndarray:
    """Coordinates float32 ``(N, k)`` of features ``(N, f)`` along their first ``components`` principal components.

    ``k`` is at most ``f`` and the number of users. Features that are all the same have one coordinate, 0.
    """
    some = features
    if len(features) > FIT_USERS:
        drawn = np.random.default_rng(seed).choice(len(features), FIT_USERS, replace=False)
        some = features[np.sort(drawn)]
    mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = some - mean  # here, not in PCA: a mean far larger than the spread would take its precision in float32
    if not centred.any():
        return np.zeros((len(features), 1), np.float32)
    pca = PCA(min(components, *centred.shape), random_state=seed).fit(centred)
    found = np.empty((len(features), pca.n_components_), np.float32)
    for start in range(0, len(features), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found[part] = pca.transform(features[part] - mean)
    return found
