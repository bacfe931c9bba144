"""Calibrate level and slope of a bank's rating head, from rated rows or from the source's predictions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data.rows import numbers
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.scorer import PersonalizedLM
from puma_hub.training.teacher import PREDICTION

# Standard deviations of the Gaussian prior around the current head: of the level, in standard deviations of the labels,
# and of the slope. With few rows the head changes little. With many rows the prior has no effect.
_LEVEL_SCALE, _SLOPE_SCALE = 0.5, 0.3


@dataclass(frozen=True)
class Calibration:
    """``rating = level + slope * prediction``, fitted to ``rows`` rows, and the RMSE on them before and after."""

    level: float
    slope: float
    rows: int
    rmse_before: float
    rmse_after: float


def level_and_slope(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The most probable level and slope for predictions and labels ``(N,)``. With few rows they are close to 0 and 1.

    Bayesian linear regression with known noise, the variance of the residuals (Bishop, Pattern Recognition and Machine
    Learning, section 3.3).
    """
    center = float(predictions.mean())
    lacking = labels - predictions
    noise = max(float(np.mean(np.square(lacking))), 1e-12)
    design = np.stack([np.ones(len(labels)), predictions - center], axis=1)
    prior = np.array([_LEVEL_SCALE * max(float(labels.std()), 0.1), _SLOPE_SCALE]) ** -2.0
    shift, tilt = np.linalg.solve(design.T @ design / noise + np.diag(prior), design.T @ lacking / noise)
    return float(shift - tilt * center), float(1.0 + tilt)


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
        ConfigurationError: the bank has no head, as for clicks.
        MismatchError: the bank belongs to another LLM, template or task, or the rows contradict its predictions.
        InteractionsError: rows are malformed, the bank was trained on them, or none belongs to a user of the bank.
    """
    if bank.head is None or not lm.task.has_head:
        raise ConfigurationError(
            f"there is no rating head to calibrate, the task is {lm.task}; only RatingTask has one"
        )
    from_source = PREDICTION in interactions.column_names
    held_out = HeldOut.build(lm, bank, interactions, batch_size=batch_size, allow_training_rows=from_source)
    predictions, labels = held_out.own - held_out.offsets, held_out.labels - held_out.offsets
    if from_source:
        labels = numbers(held_out.rows, PREDICTION)
    level, slope = level_and_slope(predictions, labels)
    if not slope > 0:
        raise MismatchError(
            f"the labels of {len(labels)} rows decrease where the predictions increase (slope {slope:.2f}); check that "
            "bank, template and rows belong together, or give more rows"
        )
    head = copy.deepcopy(bank.head).cpu().eval().requires_grad_(False)
    head.rescale(level, slope)
    errors = [float(np.sqrt(np.mean(np.square(p - labels)))) for p in (predictions, level + slope * predictions)]
    found = Calibration(level, slope, len(labels), *errors)
    told = {"level": level, "slope": slope, "rows": len(labels)}
    details = {**bank.provenance.details, "calibrated": told}
    return PromptBank(bank.dataset, replace(bank.provenance, details=details), head), found
