"""The strategies ``d-optimal`` and ``v-optimal``: users whose prompts leave a linear map the least to guess.

A linear predictor of a prompt ``x``, its weights Gaussian around 0 with covariance 1, is observed at the chosen users
with Gaussian noise of variance ``noise**2``, as the Gauss-Newton start of an adapter does. Then

    covariance of the weights      S = (1 + sum x x^T / noise^2)^-1
    variance at a user's prompt    x^T S x

``d-optimal`` takes the user with the largest variance, again and again, which is greedy for the most information,
``log det(1 + sum x x^T / noise^2)``. ``v-optimal`` takes the user who lowers the mean variance over all users most.
Both are classical (Chaloner and Verdinelli, 1995, Bayesian experimental design), and neither reads a label.
"""

from __future__ import annotations

import math

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.errors import ConfigurationError
from puma_hub.selection.features import flat_prompts, principal_components

MOST_COMPONENTS = 128
"""Principal components of the prompts that are looked at; never more than the budget."""


def d_optimal(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, noise: float = 1.0
) -> np.ndarray:
    """Row numbers of ``budget`` users by greedy D-optimality; ``interactions`` and ``seed`` change nothing.

    Args:
        noise: standard deviation of an observation, where the offset of an average user moves a prediction by 1.

    Raises:
        ConfigurationError: ``noise`` is not a number above 0.
    """
    return greedy(Posterior(design_points(bank, budget), _checked(noise)), budget)


def v_optimal(
    bank: PromptBank, interactions: datasets.Dataset, budget: int, seed: int, *, noise: float = 1.0
) -> np.ndarray:
    """As :func:`d_optimal`, by greedy V-optimality."""
    return greedy(MeanVariance(design_points(bank, budget), _checked(noise)), budget)


def design_points(bank: PromptBank, budget: int) -> np.ndarray:
    """Coordinates float64 ``(N, k)`` of the prompts' offsets from their mean, of mean square length 1."""
    points = principal_components(flat_prompts(bank), min(budget, MOST_COMPONENTS), seed=0).astype(np.float64)
    points /= math.sqrt(np.einsum("ij,ij->", points, points) / len(points)) or 1.0
    return points


class Posterior:
    """The linear predictor after some observations.

    Args:
        points: ``x`` of all users, float64 ``(N, k)``: what is left of a variance is small beside what it was.
        noise: standard deviation of an observation.
    """

    def __init__(self, points: np.ndarray, noise: float) -> None:
        self.points = points
        self.noise = noise
        self.covariance = np.eye(points.shape[1])
        self.variances = np.einsum("ij,ij->i", points, points)

    def gains(self) -> np.ndarray:
        """What rises with the information that each user would bring, ``(N,)``."""
        return self.variances

    def observe(self, row: int) -> None:
        """Take in one user; ``O(N k)`` by the rank-one update of an inverse (Sherman and Morrison)."""
        point = self.points[row]
        direction = self.covariance @ point
        self._update(direction, self.noise**2 + float(point @ direction))

    def _update(self, direction: np.ndarray, step: float) -> None:
        along = self.points @ direction
        self.variances -= along**2 / step
        self.covariance -= np.outer(direction, direction) / step


class MeanVariance(Posterior):
    """As :class:`Posterior`, with the gain in the mean variance over all users."""

    def __init__(self, points: np.ndarray, noise: float) -> None:
        super().__init__(points, noise)
        self.moments = points.T @ points / len(points)
        self.shared = np.einsum("ij,ij->i", points @ self.moments, points)  # x^T S M S x, M the moments

    def gains(self) -> np.ndarray:
        return self.shared / (self.noise**2 + self.variances)

    def _update(self, direction: np.ndarray, step: float) -> None:
        both = np.stack([direction, self.covariance @ (self.moments @ direction)], axis=1)
        along, across = (self.points @ both).T
        self.shared += along**2 * float(direction @ self.moments @ direction) / step**2 - 2 * along * across / step
        super()._update(direction, step)


def greedy(design: Posterior, budget: int) -> np.ndarray:
    """Row numbers of ``budget`` users in the order they are taken; the first of several with the same gain."""
    chosen = np.empty(budget, np.int64)
    taken = np.zeros(len(design.points), bool)
    for number in range(budget):
        row = int(np.where(taken, -np.inf, design.gains()).argmax())
        chosen[number], taken[row] = row, True
        design.observe(row)
    return chosen


def _checked(noise: float) -> float:
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf:
        raise ConfigurationError(f"noise must be a number above 0, got {noise!r}")
    return float(noise)
