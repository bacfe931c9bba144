"""A covariance under differential privacy: noise that hides whether a user was among those it is computed from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from puma_hub.errors import ConfigurationError

DELTA = 1e-6


@dataclass(frozen=True)
class PrivacyBudget:
    """An ``(epsilon, delta)`` guarantee (Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2.3).

    Args:
        epsilon: how much likelier a result may be with any one user than without, as a logarithm. 1 is strict.
        delta: the probability of more than that; below one in the number of users.
        clip: offsets longer than this, in typical lengths of the bank's, are shortened to it.

    Raises:
        ConfigurationError: a value is out of range.
    """

    epsilon: float
    delta: float = DELTA
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("epsilon", math.inf), ("delta", 1.0), ("clip", math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < most:
                raise ConfigurationError(f"{name} must lie between 0 and {most:g}, got {value!r}")

    @property
    def noise(self) -> float:
        """The standard deviation that hides a change of length 1: the analytic Gaussian mechanism.

        Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, theorem 8.
        """

        def missing(log_deviation: float) -> float:
            deviation = math.exp(log_deviation)
            first, second = 1 / (2 * deviation), self.epsilon * deviation
            lost = norm.cdf(first - second) - math.exp(self.epsilon + norm.logcdf(-first - second))
            return float(lost - self.delta)

        return math.exp(brentq(missing, -12.0, 25.0, xtol=1e-12))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def private_factors(
    offsets: np.ndarray, length: float, rank: int, budget: PrivacyBudget, generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The covariance of ``offsets (N, d)`` as factors ``(k, d)`` and the variance of all other directions.

    Noise is added to the sum of outer products (Dwork et al., Analyze Gauss, STOC 2014), of which one user of length
    ``clip`` changes ``clip ** 2``. Directions whose variance noise alone may reach are left to the others. What is done
    to the noisy sum costs no privacy.

    Args:
        length: typical of an offset.
        rank: the most factors.
        generator: of the noise; whoever knows its seed can take the noise away.
    """
    users, size = offsets.shape
    longest = budget.clip * length
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    clipped = (offsets * np.minimum(1.0, longest / np.maximum(norms, 1e-30))).astype(np.float64)
    deviation = budget.noise * longest**2 / users
    drawn = np.triu(generator.normal(0.0, deviation, (size, size)))
    noisy = clipped.T @ clipped / users + drawn + np.triu(drawn, 1).T
    values, vectors = np.linalg.eigh(noisy)
    edge = 2.0 * deviation * math.sqrt(size)  # the largest eigenvalue of noise (Wigner's semicircle)
    kept = np.flatnonzero(values > edge)[-rank:]
    rest = max(float(np.trace(noisy) - values[kept].sum()) / max(size - len(kept), 1), 0.0)
    scales = np.sqrt(np.maximum(values[kept] - rest, 0.0))
    return (scales[:, None] * vectors[:, kept].T).astype(np.float32), rest
