"""Users' offsets as the means of their Gaussian posteriors, given what all users share.

A prediction is nearly linear in a user's offset, the offsets are Gaussian around 0, and labels scatter around the
predictions. Then the most likely offset of a user follows from the user's rows in closed form: a ridge regression on
the gradients of the predictions, with one unknown a row (Rasmussen and Williams, Gaussian Processes for Machine
Learning, sections 2.1 and 2.2). Where a prediction is not linear, a further step takes the gradients at the offset
reached: a Gauss-Newton step, or Fisher scoring for tasks whose labels' variance depends on the prediction (McCullagh
and Nelder, Generalized Linear Models, section 2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.finite import require_finite
from puma_hub.tasks import RatingHead
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.linearized_rows import LinearizedRows
from puma_hub.training.variances import variances_of

STEPS = 1
ROWS_AT_ONCE = 8192
"""Users are solved for in parts of about so many rows, whose gradients are in memory together."""
_HALVINGS = 4
_ROUNDING = 1e-5  # of predictions in float32, in a sum of squares


class Prior(Protocol):
    """A Gaussian around 0, of offsets ``(l * d,)`` in embedding RMS."""

    def times(self, gradients: np.ndarray) -> np.ndarray:
        """``gradients (n, l * d)`` times the covariance."""

    def squares(self, offsets: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis norms ``(n,)`` of ``offsets (n, l * d)``."""


Step = Callable[[LinearizedRows, np.ndarray, Prior, float], np.ndarray]


def solve_user(rows: LinearizedRows, at: np.ndarray, prior: Prior, noise: float) -> np.ndarray:
    """The posterior's mean ``(l * d,)`` of a user whose rows were linearised at the offset ``at``."""
    weighted = prior.times(rows.gradients)
    targets = rows.lacking + rows.gradients @ at
    system = weighted @ rows.gradients.T
    system[np.diag_indices_from(system)] += noise
    mean: np.ndarray = weighted.T @ np.linalg.solve(system, targets)
    return mean


def gradient_step(rows: LinearizedRows, at: np.ndarray, prior: Prior, noise: float) -> np.ndarray:
    """Where a gradient step from the offset ``at`` leads, at which a user's rows were linearised.

    The gradient of the log posterior, times the prior's covariance and the longest step that cannot overshoot where
    predictions are linear.
    """
    weighted = prior.times(rows.gradients)
    steepest = 1.0 + max(float(np.linalg.eigvalsh(weighted @ rows.gradients.T)[-1]), 0.0) / noise
    found: np.ndarray = at + (weighted.T @ rows.lacking / noise - at) / steepest
    return found


class PosteriorSolver:
    """Solves for users' offsets around ``base (l, d)``, in the LLM's units, with the rating head ``head``.

    Args:
        scale: of an offset of 1, in the LLM's units: its embedding RMS.
        batch_size: rows at once through the LLM.

    Raises:
        NotFiniteError: predictions or gradients are NaN or infinite.
    """

    def __init__(
        self, lm: PersonalizedLM, base: torch.Tensor, head: RatingHead | None, scale: float, batch_size: int
    ) -> None:
        self.lm, self.base, self.head, self.scale, self.batch_size = lm, base.to(lm.device), head, scale, batch_size

    def linearized(self, rows: EncodedInteractions, offsets: np.ndarray) -> LinearizedRows:
        """Linearise rows at their own ``offsets (n, l * d)``."""
        gradients, lacking, deviations = np.empty(offsets.shape), np.empty(len(rows)), np.empty(len(rows))
        for part in torch.arange(len(rows)).split(self.batch_size):
            prompts = self._prompts(offsets[part.numpy()]).requires_grad_(True)
            chosen = rows.take(part)
            predictions = self._predicted(prompts, chosen)
            (found,) = torch.autograd.grad(predictions.sum(), prompts)
            require_finite(found, "gradients", self.lm.dtype)
            missing, deviation = self._lacking(predictions.detach(), chosen)
            by_offset = self.scale * found.flatten(1) / deviation[:, None]
            gradients[part.numpy()] = by_offset.double().cpu().numpy()
            lacking[part.numpy()] = missing
            deviations[part.numpy()] = deviation.double().cpu().numpy()
        return LinearizedRows(gradients, lacking, rows.users.numpy(), deviations)

    @torch.no_grad()
    def lacking(self, rows: EncodedInteractions, offsets: np.ndarray) -> np.ndarray:
        """What rows lack ``(n,)`` at their own ``offsets (n, l * d)``, as :class:`LinearizedRows` has it."""
        parts = []
        for part in torch.arange(len(rows)).split(self.batch_size):
            chosen = rows.take(part)
            parts.append(self._lacking(self._predicted(self._prompts(offsets[part.numpy()]), chosen), chosen)[0])
        return np.concatenate(parts)

    def _prompts(self, offsets: np.ndarray) -> torch.Tensor:
        own = torch.from_numpy(offsets).to(self.base)
        return self.base + self.scale * own.view(len(own), *self.base.shape)

    def _predicted(self, prompts: torch.Tensor, rows: EncodedInteractions) -> torch.Tensor:
        predictions = self.lm.task.predict(self.lm.logits(prompts, rows.rows), self.head)
        require_finite(predictions, "predictions", self.lm.dtype)
        return predictions

    def _lacking(self, predictions: torch.Tensor, rows: EncodedInteractions) -> tuple[np.ndarray, torch.Tensor]:
        """Label minus prediction in standard deviations of the label, and these."""
        deviation = self.lm.task.variance(predictions).sqrt()
        missing: np.ndarray = ((rows.labels.to(predictions) - predictions) / deviation).double().cpu().numpy()
        return missing, deviation

    def noise(self, rows: EncodedInteractions, offsets: np.ndarray) -> float:
        """The variance of labels around predictions at the users' ``offsets (users, l * d)``."""
        return max(float(np.square(self.lacking(rows, offsets[rows.users.numpy()])).mean()), 1e-8)

    def squares(self, rows: EncodedInteractions, offsets: np.ndarray) -> np.ndarray:
        """Of each user the squares ``(users,)`` of what rows lack at the users' ``offsets (users, l * d)``, summed."""
        numbers = rows.users.numpy()
        return _squares(self.lacking(rows, offsets[numbers]), numbers, len(offsets))

    def solve(
        self,
        rows: EncodedInteractions,
        prior: Prior,
        noise: float,
        users: int,
        steps: int = STEPS,
        *,
        towards: Step = solve_user,
        means: np.ndarray | None = None,
        begin: np.ndarray | None = None,
        first: LinearizedRows | None = None,
    ) -> np.ndarray:
        """Offsets float32 ``(users, l * d)`` of the users that ``rows.users`` number; the mean for those without rows.

        A step that makes a user's offset less likely is halved, a few times, or not taken.

        Args:
            towards: where a step leads: to the mean of the posterior of the linearised rows, or :func:`gradient_step`.
            means: of the users' priors ``(users, l * d)``; 0 by default.
            begin: offsets ``(users, l * d)`` at which rows are linearised first; ``means`` by default.
            first: the rows linearised there, if they have been.
        """
        numbers = rows.users.numpy()
        center = np.zeros((users, self.base.numel())) if means is None else means
        at = center.copy()
        present = np.unique(numbers)
        at[present] = (center if begin is None else begin)[present]
        for number in range(steps):
            linear = first if first is not None and not number else self.linearized(rows, at[numbers])
            before = _squares(linear.lacking, numbers, users) / noise + prior.squares(at - center)
            step = np.zeros_like(at)
            for user, own in linear.by_user():
                step[user] = center[user] + towards(own, at[user] - center[user], prior, noise) - at[user]
            trying = np.ones(users, dtype=bool)
            for _ in range(_HALVINGS):
                mine = torch.from_numpy(np.flatnonzero(trying[numbers]))
                if not len(mine):
                    break
                chosen = numbers[mine.numpy()]
                after = _squares(self.lacking(rows.take(mine), (at + step)[chosen]), chosen, users) / noise
                after += prior.squares(at + step - center)
                trying &= after > before * (1.0 + _ROUNDING)
                step[trying] /= 2
            step[trying] = 0.0
            at += step
        return at.astype(np.float32)


def _squares(values: np.ndarray, users: np.ndarray, count: int) -> np.ndarray:
    """Sums of squares ``(count,)`` of each user's values."""
    return np.bincount(users, np.square(values), count)


def recorded_noise(bank: PromptBank) -> float | None:
    """The noise variance that a bank, or one it was migrated from, recorded; None where none did."""
    for details in (bank.provenance.details, *(step.get("details", {}) for step in bank.provenance.history[::-1])):
        found = variances_of(details)
        if found is not None:
            return found.noise
    return None


def in_parts(users: torch.Tensor, seed: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Users in random order, in parts of about :data:`ROWS_AT_ONCE` rows, and the numbers of their rows.

    ``users (N,)`` are the rows' users, numbered from 0.
    """
    numbers = users.numpy()
    counts = np.bincount(numbers)
    order = np.random.default_rng(seed).permutation(len(counts))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    rows = np.argsort(place[numbers], kind="stable")
    ends = np.cumsum(counts[order])
    first = begun = 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(ends, begun + ROWS_AT_ONCE, side="right")))
        yield order[first:last], torch.from_numpy(rows[begun : int(ends[last - 1])])
        first, begun = last, int(ends[last - 1])
