"""Calibrate level and slope of a bank's rating head, from rated rows or from the source's predictions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.data.rows import numbers
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import Task
from puma_hub.training.teacher import PREDICTION

# Standard deviations of the Gaussian prior around the current head: of the level, in standard deviations of the labels,
# and of the slope. With few rows the head changes little. With many rows the prior has no effect.
_LEVEL_SCALE, _SLOPE_SCALE = 0.5, 0.3
_STEPS = 30  # of the reweighting, which ends where nothing changes; for ratings after the first


@dataclass(frozen=True)
class Calibration:
    """The head's output becomes ``level + slope * output``, fitted to ``rows`` rows.

    With it the RMSE of predictions on these rows, before and after.
    """

    level: float
    slope: float
    rows: int
    rmse_before: float
    rmse_after: float


def level_and_slope(outputs: np.ndarray, labels: np.ndarray, task: Task) -> tuple[float, float]:
    """The most probable level and slope for a head's outputs and labels ``(N,)``. With few rows they are near 0 and 1.

    For ratings it is Bayesian linear regression with known noise, the variance of the residuals (Bishop, Pattern
    Recognition and Machine Learning, section 3.3). For clicks it is Bayesian logistic regression on the log-odds, its
    mode found by iteratively reweighted least squares (section 4.3.3; Platt scaling).
    """
    center = float(outputs.mean())
    design = np.stack([np.ones(len(labels)), outputs - center], axis=1)
    found = np.array([center, 1.0])  # of level at the center and slope
    usual, noise, spread = found.copy(), 0.0, 0.0
    for step in range(_STEPS):
        predictions, variance = _predicted(task, design @ found)
        lacking = labels - predictions
        if not step:
            noise = max(float(np.mean(np.square(lacking) / variance)), 1e-12)
            spread = max(float(labels.std()), 0.1) / float(variance.mean())
        precision = np.diag(np.array([_LEVEL_SCALE * spread, _SLOPE_SCALE]) ** -2.0)
        change = np.linalg.solve(
            (design.T * variance) @ design / noise + precision,
            design.T @ lacking / noise - precision @ (found - usual),
        )
        found = found + change
        if np.abs(change).max() < 1e-10:
            break
    return float(found[0] - found[1] * center), float(found[1])


def _predicted(task: Task, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions ``(N,)`` of linear predictors, and the labels' variance at each."""
    predictions = task.inverse_link(torch.from_numpy(outputs))
    return predictions.numpy(), task.variance(predictions).numpy()


def calibrate(
    lm: PersonalizedLM, bank: PromptBank, interactions: datasets.Dataset, *, batch_size: int = 256
) -> tuple[PromptBank, Calibration]:
    """Set level and slope of a bank's rating head from rows of its users. The prompts are not changed.

    A migrated bank has the adapter's head, which was trained on other users and items. The ratings of your users may
    have another mean or spread. A few hundred rows of many users are enough:

    - rated rows that the source prompts were not trained on (prompts overfit their training rows);
    - or, without labels, rows from :func:`puma_hub.training.with_source_predictions` (``noise=0``). The head then gets
      the level and slope of the source's predictions.

    Args:
        lm: the scorer of the bank's LLM.

    Returns:
        The bank with the new head, and the calibration.

    Raises:
        ConfigurationError: the bank has no head, as for answers of Yes and No.
        MismatchError: the bank belongs to another LLM, template or task, or the rows contradict its predictions.
        InteractionsError: rows are malformed, the bank was trained on them, or none belongs to a user of the bank.
    """
    if bank.head is None or not lm.task.has_head:
        raise ConfigurationError(f"there is no rating head to calibrate, the task is {lm.task}")
    from_source = PREDICTION in interactions.column_names
    held_out = HeldOut.build(lm, bank, interactions, batch_size=batch_size, allow_training_rows=from_source)
    predictions, labels = held_out.own - held_out.offsets, held_out.labels - held_out.offsets
    if from_source:
        labels = numbers(held_out.rows, PREDICTION)
    outputs = lm.task.link(torch.from_numpy(predictions)).numpy()
    level, slope = level_and_slope(outputs, labels, lm.task)
    if not slope > 0:
        raise MismatchError(
            f"the labels of {len(labels)} rows decrease where the predictions increase (slope {slope:.2f}); check that "
            "bank, template and rows belong together, or give more rows"
        )
    head = copy.deepcopy(bank.head).cpu().eval().requires_grad_(False)
    head.rescale(level, slope)
    after = lm.task.inverse_link(torch.from_numpy(level + slope * outputs)).numpy()
    errors = [float(np.sqrt(np.mean(np.square(p - labels)))) for p in (predictions, after)]
    found = Calibration(level, slope, len(labels), *errors)
    told = {"level": level, "slope": slope, "rows": len(labels)}
    details = {**bank.provenance.details, "calibrated": told}
    return PromptBank(bank.dataset, replace(bank.provenance, details=details), head), found
