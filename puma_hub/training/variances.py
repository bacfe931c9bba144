"""How much users' offsets and their labels vary, which says how closely an offset follows a user's rows.

Marginal likelihoods are those of Gaussian processes (Rasmussen and Williams, Gaussian Processes for Machine Learning,
section 5.4.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from puma_hub.errors import ConfigurationError
from puma_hub.training.linearized_rows import LinearizedRows

VARIANCES = "variances"  # among the details of a bank's provenance
LATEST = 0.2
"""Share of each user's rows, the last in time, that tells how closely offsets are to follow the others."""
ENOUGH = 100
_LEAST, _MOST = 1e-8, 1.0  # of an offset's variance, about; with 1, offsets are as long as embeddings


@dataclass(frozen=True)
class Variances:
    """An isotropic prior, and the noise of labels.

    ``offset`` is the variance of a coordinate of a user's offset, in embedding RMS squared; ``noise`` a factor on the
    task's variance of a label.
    """

    offset: float
    noise: float

    def times(self, gradients: np.ndarray) -> np.ndarray:
        return self.offset * gradients

    def squares(self, offsets: np.ndarray) -> np.ndarray:
        return np.square(offsets).sum(1) / self.offset


def variances_of(details: Mapping[str, Any]) -> Variances | None:
    """The variances in the details of a bank's provenance, if they are numbers above 0."""
    recorded = details.get(VARIANCES)
    if not isinstance(recorded, Mapping):
        return None
    found = [recorded.get(name) for name in ("offset", "noise")]
    if not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in found):
        return None
    return Variances(*(float(value) for value in found if value is not None))


def best_variances(rows: LinearizedRows, latest: np.ndarray) -> Variances:
    """The variances that serve rows best, which were linearised at offsets of 0.

    Their ratio is the one whose offsets, from a user's other rows, predict the user's ``latest (n,)`` rows with the
    least squared error: users change, so the likeliest ratio would follow old rows too closely. Where there are fewer
    than 100 of these it is the likeliest. The noise is the likeliest at that ratio.

    Raises:
        ConfigurationError: the labels are the predictions.
    """
    if not rows.lacking.any():
        raise ConfigurationError("all labels are what the base predicts, so there is nothing personal to learn")
    spectra = [_Spectrum.of(own) for _, own in rows.by_user()]
    loss = partial(_minus_log_likelihood, spectra)
    if latest.sum() >= ENOUGH:
        loss = partial(_forecast_error, _forecasts(rows, latest))
    grid = np.log(np.geomspace(_LEAST, _MOST, 65) / float(np.square(rows.lacking).mean()))
    best = int(np.argmin([loss(ratio) for ratio in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    ratio = float(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6}).x)
    noise = _likeliest_noise(spectra, ratio)
    return Variances(float(np.exp(ratio)) * noise, noise)


def forecast_errors(rows: LinearizedRows, latest: np.ndarray, variances: Variances) -> tuple[np.ndarray, np.ndarray]:
    """What the forecasts of users' ``latest (n,)`` rows lack, and the numbers of these rows.

    A forecast is the prediction with the posterior mean of the user's other rows.
    """
    found = _forecasts(rows, latest)
    errors = [one.errors(variances.offset / variances.noise) for one in found]
    return np.concatenate([np.empty(0), *errors]), np.concatenate([np.empty(0, int), *(one.numbers for one in found)])


def _forecasts(rows: LinearizedRows, latest: np.ndarray) -> list[_Forecast]:
    """Of each user who has both latest and other rows."""
    numbers = np.arange(len(latest))
    return [
        _Forecast.of(rows.take(own[~latest[own]]), rows.take(own[latest[own]]), own[latest[own]])
        for own in (numbers[rows.users == user] for user in np.unique(rows.users))
        if latest[own].any() and not latest[own].all()
    ]


@dataclass(frozen=True)
class _Spectrum:
    """Eigenvalues ``(n,)`` of the Gram matrix of a user's gradients, its eigenvectors, and the labels along these."""

    values: np.ndarray
    vectors: np.ndarray
    along: np.ndarray

    @classmethod
    def of(cls, rows: LinearizedRows) -> _Spectrum:
        found, vectors = np.linalg.eigh(rows.gradients @ rows.gradients.T)
        return cls(np.maximum(found, 0.0), vectors, vectors.T @ rows.lacking)


@dataclass(frozen=True)
class _Forecast:
    """A user's earlier rows, and what is needed to predict the ``later`` ones, the rows ``numbers``, from them."""

    earlier: _Spectrum
    across: np.ndarray
    later: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, earlier: LinearizedRows, later: LinearizedRows, numbers: np.ndarray) -> _Forecast:
        spectrum = _Spectrum.of(earlier)
        return cls(spectrum, later.gradients @ earlier.gradients.T @ spectrum.vectors, later.lacking, numbers)

    def errors(self, ratio: float) -> np.ndarray:
        errors: np.ndarray = self.later - ratio * self.across @ (self.earlier.along / (ratio * self.earlier.values + 1))
        return errors


def _forecast_error(parts: Sequence[_Forecast], log_ratio: float) -> float:
    """Mean squared error of the later rows at a ratio of offset to noise variance."""
    return float(np.square(np.concatenate([part.errors(np.exp(log_ratio)) for part in parts])).mean())


def _likeliest_noise(spectra: Sequence[_Spectrum], log_ratio: float) -> float:
    ratio = np.exp(log_ratio)
    return float(np.mean(np.concatenate([np.square(one.along) / (ratio * one.values + 1.0) for one in spectra])))


def _minus_log_likelihood(spectra: Sequence[_Spectrum], log_ratio: float) -> float:
    """At a ratio of offset to noise variance and the likeliest noise, constants and a factor apart."""
    scales = np.concatenate([one.values for one in spectra])
    return float(np.log(_likeliest_noise(spectra, log_ratio)) + np.mean(np.log1p(np.exp(log_ratio) * scales)))
