"""The calibration slope, against forecasts and a line fitted by sklearn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from puma_hub.training.calibration import calibration_slope, slope_of
from puma_hub.training.linearized_rows import LinearizedRows
from puma_hub.training.variances import Variances

PRIOR = Variances(offset=0.25, noise=0.5)


def made(users: int, stretch: float, seed: int = 0) -> tuple[LinearizedRows, np.ndarray, np.ndarray]:
    """Rows whose predictions and personal parts are too small by the factor ``stretch``; labels; which are latest."""
    generator = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(users), 20)
    gradients = generator.normal(size=(len(numbers), 3))
    offsets = 0.5 * generator.normal(size=(users, 3))
    predictions, deviations = generator.normal(size=len(numbers)), generator.uniform(0.5, 2.0, len(numbers))
    personal = (gradients * offsets[numbers]).sum(1)
    labels = 0.1 + stretch * (predictions + deviations * personal)
    labels += deviations * np.sqrt(PRIOR.noise) * generator.normal(size=len(numbers))
    rows = LinearizedRows(gradients, (labels - predictions) / deviations, numbers, deviations)
    return rows, labels, np.tile(np.arange(20) >= 16, users)


@pytest.mark.parametrize("stretch", [0.8, 1.0, 1.3])
def test_the_slope_is_that_of_a_line_through_forecasts(stretch: float) -> None:
    rows, labels, latest = made(60, stretch)
    forecasts = labels - rows.deviations * rows.lacking
    for user in range(60):
        early, late = (np.flatnonzero((rows.users == user) & part) for part in (~latest, latest))
        ridge = Ridge(alpha=PRIOR.noise / PRIOR.offset, fit_intercept=False)
        ridge.fit(rows.gradients[early], rows.lacking[early])
        forecasts[late] += rows.deviations[late] * ridge.predict(rows.gradients[late])
    x, y = forecasts[latest][:, None], labels[latest]
    line = LinearRegression().fit(x, y)
    error = np.sqrt(np.square(y - line.predict(x)).sum() / (len(y) - 2) / np.square(x - x.mean()).sum())
    expected = 1 + (line.coef_[0] - 1) / (1 + error**2 / 0.1**2)
    assert calibration_slope(rows, labels, latest, PRIOR) == pytest.approx(expected, rel=1e-9)


def test_few_rows_say_little_and_a_slope_stays_within_reason() -> None:
    rows, labels, latest = made(24, 1.0)
    assert calibration_slope(rows, labels, latest, PRIOR) == 1.0  # 96 latest rows
    assert calibration_slope(rows, labels, np.zeros_like(latest), PRIOR) == 1.0
    assert calibration_slope(rows, labels, np.ones_like(latest), PRIOR) == 1.0
    many, labels, latest = made(3000, 1.0)
    assert calibration_slope(many, labels, latest, PRIOR) == pytest.approx(1.0, abs=0.05)
    for wrong, bound in ((-labels, 0.5), (10 * labels, 2.0)):
        lacking = many.lacking + (wrong - labels) / many.deviations
        changed = LinearizedRows(many.gradients, lacking, many.users, many.deviations)
        assert calibration_slope(changed, wrong, latest, Variances(1e-8, 1.0)) == bound


def test_forecasts_that_are_all_the_same_have_no_slope() -> None:
    rows, labels, latest = made(60, 1.0)
    lacking = (labels - 3.0) / rows.deviations
    flat = LinearizedRows(np.zeros_like(rows.gradients), lacking, rows.users, rows.deviations)
    assert calibration_slope(flat, 3.0 + rows.deviations * lacking, latest, PRIOR) == 1.0


@pytest.mark.parametrize("recorded", [None, "1.2", 0, -1.0, float("nan"), float("inf"), True, [1.0]])
def test_a_slope_that_is_no_positive_number_is_none(recorded: object) -> None:
    assert slope_of({"calibration_slope": recorded}) is None


def test_a_recorded_slope_is_read() -> None:
    assert slope_of({"calibration_slope": 1.2}) == 1.2 and slope_of({}) is None
