"""Intervals by resampling users (Efron and Tibshirani, An Introduction to the Bootstrap, 1993)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from puma_hub.limits import require_whole

LEVEL = 0.95
RESAMPLES = 2000
_LEAST, _MOST = 100, 1_000_000  # resamples
_AT_ONCE = 4_000_000  # weights in memory
_KEPT = 250_000_000  # weights, of one byte, that are not drawn again


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval; None where they are not defined."""

    estimate: float | None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Statistic:
    """What is computed of each resample.

    Args:
        of: how often each user was drawn, float64 ``(R, U)``, to ``m`` figures float64 ``(R, m)``; NaN where one is not
            defined.
        most: how many resamples are computed at most, where each of them takes long.
    """

    of: Callable[[np.ndarray], np.ndarray]
    most: int | None = None

    def once(self, users: int) -> np.ndarray:
        """The figures ``(m,)`` of the users themselves."""
        found: np.ndarray = self.of(np.ones((1, users)))[0]
        return found


def of_sums(sums: np.ndarray, figures: Callable[[np.ndarray], np.ndarray]) -> Statistic:
    """A statistic of sums over users: ``sums (U, k)`` of each, ``figures`` of their totals ``(R, k)``."""

    def resampled(weights: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return figures(weights @ sums)

    return Statistic(resampled)


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of ``users`` users, with replacement. They are the same for the same seed.

    Raises:
        ConfigurationError: there are fewer than 100 resamples, or more than a million.
    """

    users: int
    resamples: int = RESAMPLES
    seed: int = 42

    def __post_init__(self) -> None:
        require_whole(self.resamples, "resamples", _MOST, _LEAST)
        require_whole(self.seed, "seed", 2**63, 0)

    def draws(self, statistic: Statistic) -> np.ndarray:
        """The figures of each resample, ``(R, m)``. Those of two statistics are of the same resamples."""
        most = self.resamples if statistic.most is None else min(statistic.most, self.resamples)
        parts, done = [], 0
        for counts in self._kept or self._drawn():
            parts.append(statistic.of(counts[: most - done].astype(np.float64)))
            done += len(parts[-1])
            if done == most:
                break
        return np.concatenate(parts)

    @cached_property
    def _kept(self) -> list[np.ndarray]:
        return list(self._drawn()) if self.users * self.resamples <= _KEPT else []

    def _drawn(self) -> Iterator[np.ndarray]:
        """How often each user is drawn: uint8, since nobody of 256 is drawn 256 times."""
        generator, at_once = np.random.default_rng(self.seed), max(1, _AT_ONCE // self.users)
        for start in range(0, self.resamples, at_once):
            size = min(at_once, self.resamples - start)
            drawn = generator.integers(0, self.users, (size, self.users)) + np.arange(size)[:, None] * self.users
            counts = np.bincount(drawn.ravel(), minlength=size * self.users)
            yield counts.astype(np.uint8).reshape(size, self.users)

    def interval(self, estimate: float | None, draws: np.ndarray) -> Interval:
        """The interval of a figure from its ``draws (R,)``.

        It is the expanded percentile interval (Hesterberg, What teachers should know about the bootstrap, The American
        Statistician 2015): quantiles a little farther out than 2.5 and 97.5 %, since resamples of few
        users vary too little. A draw where the figure is not defined counts as below all for the lower bound and as
        above all for the upper one, so that a figure that is often not defined has no bounds.
        """
        if self.users < 2 or estimate is None or not math.isfinite(estimate):
            return Interval(estimate if estimate is not None and math.isfinite(estimate) else None)
        quantile = stats.t.ppf((1 - LEVEL) / 2, self.users - 1) * math.sqrt(self.users / (self.users - 1))
        share = float(stats.norm.cdf(quantile))
        defined = np.isfinite(draws)
        low = _quantile(np.where(defined, draws, -np.inf), share)
        high = _quantile(np.where(defined, draws, np.inf), 1 - share)
        return Interval(float(estimate), low, high)

    def intervals(self, statistic: Statistic, names: tuple[str, ...]) -> dict[str, Interval]:
        """The estimates of a statistic's figures, by name, with their intervals."""
        once = statistic.once(self.users)
        if self.users < 2:
            return {name: self.interval(float(value), once) for name, value in zip(names, once)}
        draws = self.draws(statistic)
        return {name: self.interval(float(once[place]), draws[:, place]) for place, name in enumerate(names)}


def plain(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Intervals as plain data."""
    return {name: one.to_dict() for name, one in intervals.items()}


def _quantile(values: np.ndarray, share: float) -> float | None:
    with np.errstate(invalid="ignore"):  # between an infinite value and a finite one
        found = float(np.quantile(values, share))
    return found if math.isfinite(found) else None
