"""How far predictions of a bank's prompts must be stretched to agree with labels: the calibration slope.

It is the slope of labels on predictions of rows that the prompts have not seen (Cox, Two further applications of a
model for binary regression, Biometrika 1958; Steyerberg, Clinical Prediction Models, section 15.2.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import linregress

from puma_hub.training.linearized_rows import LinearizedRows
from puma_hub.training.variances import ENOUGH, Variances, forecast_errors

SLOPE = "calibration_slope"  # among the details of a bank's provenance
_USUAL = 0.1  # standard deviation of slopes around 1, before any row is seen
_WITHIN = 0.5, 2.0


def calibration_slope(rows: LinearizedRows, labels: np.ndarray, latest: np.ndarray, variances: Variances) -> float:
    """The slope of users' ``latest (n,)`` labels on forecasts from the users' other rows.

    The less sure it is, the closer it is to 1: the posterior mean under a Gaussian prior with mean 1 and standard
    deviation 0.1. It is 1 for fewer than 100 latest rows.

    Args:
        rows: linearised at offsets of 0.
        labels: of the rows ``(n,)``.
    """
    errors, numbers = forecast_errors(rows, latest, variances)
    if len(numbers) < ENOUGH:
        return 1.0
    labels = labels[numbers]
    forecasts = labels - rows.deviations[numbers] * errors
    if np.ptp(forecasts) < 1e-9:  # of float rounding
        return 1.0
    found = linregress(forecasts, labels)
    share = _USUAL**2 / (_USUAL**2 + found.stderr**2)
    return float(np.clip(1.0 + share * (found.slope - 1.0), *_WITHIN))


def slope_of(details: Mapping[str, Any]) -> float | None:
    """The slope in the details of a bank's provenance, if it is a number above 0."""
    recorded = details.get(SLOPE)
    if isinstance(recorded, (int, float)) and not isinstance(recorded, bool) and 0 < recorded < math.inf:
        return float(recorded)
    return None
