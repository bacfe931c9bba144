"""Drawing users out of a cluster or stratum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""``(members, count, generator) -> row numbers``: ``count`` distinct ones of ``members``, all if there are no more."""


def draw_at_random(members: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Each with the same chance."""
    return generator.choice(members, min(count, len(members)), replace=False)


def farthest_points(
    features: np.ndarray, members: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """The first at random, then always the one farthest from all that are drawn (Gonzalez, 1985).

    Exact, by Euclidean distance of the float32 features ``(N, f)``; the first of several that are as far. A draw
    takes ``count`` products of the members' features with a vector.
    """
    count = min(count, len(members))
    chosen = np.empty(count, np.int64)
    if not count:
        return chosen
    points = features[members]
    points -= points.mean(axis=0)  # so that squares are of the size of distances
    squares = np.einsum("ij,ij->i", points, points)
    nearest = np.full(len(members), np.inf, points.dtype)
    pick = int(generator.integers(len(members)))
    for number in range(count):
        chosen[number] = pick
        distances = squares + squares[pick] - 2 * (points @ points[pick])
        np.minimum(nearest, np.maximum(distances, 0), out=nearest)
        nearest[pick] = -1  # below every distance, so that nobody is drawn twice
        pick = int(nearest.argmax())
    return members[chosen]
