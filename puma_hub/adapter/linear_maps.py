"""Linear maps between two embedding spaces, from embeddings of the same tokens in both. They need no user data.

Each function takes source embeddings ``(n, d_source)`` and target embeddings ``(n, d_target)``, row by row of the same
token, and returns the map ``(d_target, d_source)`` from a source offset to a target offset. Embeddings are centred
first, because offsets are what the map is applied to.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.linear_model import Ridge

from puma_hub.errors import ConfigurationError
from puma_hub.limits import require_whole

_LEAST_NORM = 1e-12


def ridge(source: np.ndarray, target: np.ndarray, *, penalty: float = 1e-3) -> np.ndarray:
    """The map with the least squared error, by ridge regression.

    Args:
        penalty: in mean variances of a source coordinate, for each token.
    """
    if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not 0 <= penalty < math.inf:
        raise ConfigurationError(f"penalty must be a number of at least 0, got {penalty!r}")
    model: Any = Ridge(alpha=penalty * len(source) * float(source.var(axis=0).mean()), solver="cholesky")
    found: np.ndarray = model.fit(source, target).coef_
    return found


def procrustes(source: np.ndarray, target: np.ndarray, *, scale: bool = True) -> np.ndarray:
    """The rotation nearest to the target: orthogonal Procrustes (Schoenemann, 1966), also between different sizes.

    With ``U S V'`` the singular value decomposition of ``source' target``, the map is ``V U'``. Its columns are
    orthonormal where the target is as large as the source, its rows where the source is. Of a larger source, it is the
    first rows of the rotation into the target with zeros added.

    Args:
        scale: whether the rotation is multiplied by the one number with the least squared error.
    """
    if not isinstance(scale, bool):
        raise ConfigurationError(f"scale must be true or false, got {scale!r}")
    inputs, outputs = _centered(source), _centered(target)
    left, values, right = linalg.svd(inputs.T @ outputs, full_matrices=False)
    rotation: np.ndarray = (left @ right).T
    if not scale:
        return rotation
    reached = float(np.square(inputs @ rotation.T).sum())
    return rotation * (float(values.sum()) / max(reached, _LEAST_NORM))


def anchors(source: np.ndarray, target: np.ndarray, *, count: int | None = None, seed: int = 42) -> np.ndarray:
    """Relative representations (Moschella et al., 2023), decoded linearly by their inverse (Maiorca et al., 2024).

    Tokens of both vocabularies are the anchors. A source prompt is described by its inner products with the anchors'
    unit vectors, and the target prompt is the one whose products with the target's anchors are nearest to these (least
    squares). Cosine similarities also divide by the prompt's length, which is not linear. Without that division the
    direction is the same, and the length is the source prompt's, times how much longer the target's anchors are.

    Args:
        count: of anchors, drawn from the shared tokens; all of them by default.
        seed: of the draw.
    """
    if count is not None and require_whole(count, "count", len(source)) < len(source):
        drawn = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False))
        source, target = source[drawn], target[drawn]
    ours, theirs = _centered(source), _centered(target)
    our_norms, their_norms = (
        np.maximum(np.linalg.norm(part, axis=1, keepdims=True), _LEAST_NORM) for part in (ours, theirs)
    )
    found: np.ndarray = linalg.lstsq(theirs / their_norms, ours / our_norms)[0]
    return found * float(their_norms.mean() / our_norms.mean())


def _centered(embeddings: np.ndarray) -> np.ndarray:
    whole = embeddings.astype(np.float64)
    found: np.ndarray = whole - whole.mean(axis=0)
    return found
