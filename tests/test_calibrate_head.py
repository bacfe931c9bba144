"""Level and slope of a rating head, against least squares and logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from puma_hub.evaluation.calibrate import level_and_slope
from puma_hub.tasks import LikeTask, OrdinalTask, RatingTask


def test_ratings_are_fitted_by_least_squares_with_a_prior() -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(3, 1, size=40)
    labels = 0.5 + 0.7 * outputs + generator.normal(size=40)
    noise = np.mean(np.square(labels - outputs))
    center = outputs.mean()
    # Two more rows say that the level at the center is the center, and that the slope is 1.
    design = np.stack([np.ones(40), outputs - center], axis=1) / np.sqrt(noise)
    prior = np.diag([1 / (0.5 * labels.std()), 1 / 0.3])
    both = np.concatenate([design, prior]), np.concatenate([labels / np.sqrt(noise), prior @ [center, 1.0]])
    level, slope = np.linalg.lstsq(*both, rcond=None)[0]
    assert level_and_slope(outputs, labels, RatingTask()) == pytest.approx((level - slope * center, slope))


def test_clicks_are_fitted_by_logistic_regression() -> None:
    generator = np.random.default_rng(1)
    outputs = generator.normal(0.5, 1.5, size=20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-(0.4 + 1.6 * outputs)))).astype(np.float64)
    fitted = LogisticRegression(C=np.inf).fit(outputs[:, None], labels)
    found = level_and_slope(outputs, labels, LikeTask())
    assert found == pytest.approx((fitted.intercept_[0], fitted.coef_[0, 0]), abs=5e-3)


@pytest.mark.parametrize("task", [RatingTask(), LikeTask(), OrdinalTask()])
def test_few_rows_change_little_and_extremes_do_not_diverge(task: RatingTask | LikeTask | OrdinalTask) -> None:
    for outputs in (np.array([0.2]), np.array([-6.9, 6.9]), np.zeros(5)):
        labels = np.ones(len(outputs))
        level, slope = level_and_slope(outputs, labels, task)
        assert np.isfinite([level, slope]).all() and 0 < slope < 3
