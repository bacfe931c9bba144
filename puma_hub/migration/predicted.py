"""Predicting a user's prompt in a bank that lacks the user, from the banks that do not.

Ridge regression from the offsets in the banks that have the user to those in the others, learnt on the users who are in
all banks. An offset is a prompt minus the mean of its training, all soft tokens together, divided by one number for
each bank. Only sums over users are kept, so memory does not grow with them: two float64 matrices of
``(l * sum of sizes + 1)^2``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.bank.join import JoinedUsers
from puma_hub.bank.statistics import LEAST_USERS
from puma_hub.errors import BankError
from puma_hub.migration.missing import StandIn

logger = logging.getLogger(__name__)

PENALTIES = tuple(10.0**power for power in range(-3, 5))
"""Candidates, in mean variances of an input coordinate for each user; with the last, hardly more than the mean is left.
"""
_ROWS_AT_ONCE = 256
# Matrix products of few rows may differ in the last bits; a user is to come out alike alone and among others.
_LEAST_ROWS = 32


@dataclass(frozen=True)
class Moments:
    """Sums over users: ``products (m + 1, m + 1)`` of all offsets ``(m,)`` of a user and the number 1, float64."""

    products: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.products + other.products)

    @property
    def users(self) -> float:
        return float(self.products[-1, -1])

    @property
    def means(self) -> np.ndarray:
        found: np.ndarray = self.products[-1, :-1] / self.users
        return found

    @property
    def covariances(self) -> np.ndarray:
        found: np.ndarray = self.products[:-1, :-1] / self.users - np.outer(self.means, self.means)
        return found


@dataclass(frozen=True)
class Ridge:
    """``outputs = inputs @ weights + bias``; ``inputs`` and ``outputs`` are numbers of coordinates in the moments."""

    inputs: np.ndarray
    outputs: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, inputs: np.ndarray, outputs: np.ndarray, penalties: Sequence[float]) -> list[Ridge]:
        """The solution for each penalty, by one eigendecomposition of the inputs' covariance."""
        covariances, means = moments.covariances, moments.means
        values, vectors = np.linalg.eigh(covariances[np.ix_(inputs, inputs)])
        turned = vectors.T @ covariances[np.ix_(inputs, outputs)]
        scale = max(float(values.mean()), 1e-12)
        found = []
        for penalty in penalties:
            weights = vectors @ (turned / (np.maximum(values, 0.0) + penalty * scale)[:, None])
            found.append(cls(inputs, outputs, weights, means[outputs] - means[inputs] @ weights))
        return found

    def squared_error(self, moments: Moments) -> float:
        """Summed over the users and coordinates of ``moments``."""
        size = len(moments.products) - 1
        residual = np.zeros((len(self.outputs), size + 1))  # of each output, as a combination of offsets and 1
        residual[:, self.inputs] = -self.weights.T
        residual[np.arange(len(self.outputs)), self.outputs] += 1.0
        residual[:, size] = -self.bias
        return float(np.sum((residual @ moments.products) * residual))


def chosen_ridge(folds: Sequence[Moments], inputs: np.ndarray, outputs: np.ndarray) -> tuple[Ridge, float]:
    """The regression with the penalty that predicts each of two folds best from the other.

    Returns:
        The regression on both folds, and the share of the variance around the means that is predicted, at most 1.
    """
    one, two = folds
    errors = np.zeros(len(PENALTIES))
    alone = 0.0
    for known, held_out in ((one, two), (two, one)):
        errors += [ridge.squared_error(held_out) for ridge in Ridge.fit(known, inputs, outputs, PENALTIES)]
        nothing = np.zeros((len(inputs), len(outputs)))
        alone += Ridge(inputs, outputs, nothing, known.means[outputs]).squared_error(held_out)
    best = int(errors.argmin())
    (ridge,) = Ridge.fit(one + two, inputs, outputs, PENALTIES[best : best + 1])
    return ridge, 1.0 - float(errors[best]) / max(alone, 1e-300)


@dataclass(frozen=True)
class Predictor:
    """A :data:`StandIn`.

    Args:
        centers: the mean prompt ``(l, d)`` of each bank.
        scales: what the offsets of each bank are divided by.
        ridges: by which banks have the user.
    """

    centers: Sequence[np.ndarray]
    scales: Sequence[float]
    ridges: dict[tuple[bool, ...], Ridge]

    def __call__(self, parts: Sequence[np.ndarray], present: np.ndarray) -> None:
        for pattern, ridge in self.ridges.items():
            rows = np.flatnonzero((present == pattern).all(axis=1))
            if not len(rows):
                continue
            offsets = standardized([part[rows] for part in parts], self.centers, self.scales)
            inputs = offsets[:, ridge.inputs]
            padded = np.concatenate([inputs, np.zeros((max(0, _LEAST_ROWS - len(rows)), inputs.shape[1]))])
            offsets[:, ridge.outputs] = (padded @ ridge.weights)[: len(rows)] + ridge.bias
            start = 0
            for number, (part, center) in enumerate(zip(parts, self.centers)):
                found = offsets[:, start : (start := start + center.size)]
                if not pattern[number]:
                    part[rows] = center + self.scales[number] * found.reshape(-1, *center.shape)


def predicted_prompt(banks: Sequence[PromptBank], users: JoinedUsers, centers: Sequence[np.ndarray]) -> StandIn:
    """The prompt that ridge regression predicts; the penalty is chosen by cross-validation in two folds.

    Raises:
        BankError: fewer than :data:`LEAST_USERS` users are in all banks.
    """
    complete = users.take(np.flatnonzero(users.present.all(axis=1)))
    if len(complete) < LEAST_USERS:
        raise BankError(
            f"{len(complete)} users are in all {len(banks)} banks, at least {LEAST_USERS} are needed to learn from; "
            "give missing='mean' or leave it out"
        )
    complete = complete.in_order_of_ids()  # the same sums in whichever order the banks are
    scales = [_root_mean_square(bank, rows, center) for bank, rows, center in zip(banks, complete.rows, centers)]
    folds = [_moments(banks, complete.take(np.arange(fold, len(complete), 2)), centers, scales) for fold in (0, 1)]
    owner = np.repeat(np.arange(len(banks)), [center.size for center in centers])
    ridges = {}
    for pattern in sorted({tuple(row) for row in np.unique(users.present, axis=0).tolist()}):
        if all(pattern):
            continue
        has = np.array(pattern)
        ridge, share = chosen_ridge(folds, np.flatnonzero(has[owner]), np.flatnonzero(~has[owner]))
        ridges[pattern] = ridge
        names = (", ".join(str(number) for number in np.flatnonzero(which) + 1) for which in (~has, has))
        logger.info(
            "prompts of bank(s) %s are predicted from bank(s) %s, learnt on %d users: %.0f %% of the variance on users "
            "left out",
            *names,
            len(complete),
            100 * share,
        )
    return Predictor(centers, scales, ridges)


def standardized(parts: Sequence[np.ndarray], centers: Sequence[np.ndarray], scales: Sequence[float]) -> np.ndarray:
    """Offsets of prompts ``(n, l, d)`` of each bank, side by side, float64 ``(n, l * sum of sizes)``."""
    return np.concatenate(
        [
            (part.astype(np.float64) - center).reshape(len(part), -1) / scale
            for part, center, scale in zip(parts, centers, scales)
        ],
        axis=1,
    )


def _root_mean_square(bank: PromptBank, rows: np.ndarray, center: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = bank.prompts_at(rows[start : start + _ROWS_AT_ONCE]).astype(np.float64)
        total += float(np.square(part - center).sum())
    return max((total / (len(rows) * center.size)) ** 0.5, 1e-8)


def _moments(
    banks: Sequence[PromptBank], users: JoinedUsers, centers: Sequence[np.ndarray], scales: Sequence[float]
) -> Moments:
    size = sum(center.size for center in centers) + 1
    products = np.zeros((size, size))
    for start in range(0, len(users), _ROWS_AT_ONCE):
        these = slice(start, start + _ROWS_AT_ONCE)
        parts = [bank.prompts_at(rows[these]) for bank, rows in zip(banks, users.rows)]
        offsets = np.concatenate([standardized(parts, centers, scales), np.ones((len(parts[0]), 1))], axis=1)
        products += offsets.T @ offsets
    return Moments(products)
