"""Level and slope of a bank's rating head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaTrainingArguments,
    migrate,
)
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.evaluation import calibrate, evaluate_bank
from puma_hub.evaluation.calibrate import level_and_slope
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.training import with_source_predictions
from tests.trainings import make_teaching, make_training


def test_level_and_slope_are_those_of_a_regression_with_many_rows() -> None:
    generator = np.random.default_rng(0)
    predictions = generator.normal(3.5, 0.6, 20_000)
    labels = 0.7 + 0.8 * predictions + generator.normal(0, 0.5, 20_000)
    level, slope = level_and_slope(predictions, labels)
    plain_fit = LinearRegression().fit(predictions[:, None], labels)
    assert (level, slope) == pytest.approx((plain_fit.intercept_, plain_fit.coef_[0]), abs=0.01)
    # One row says next to nothing, and no rows could.
    few_level, few_slope = level_and_slope(predictions[:1], labels[:1])
    assert abs(few_level) < 0.2 and few_slope == 1.0


def test_calibrating_without_labels(make_lm: Callable[..., PersonalizedLM]) -> None:
    source, (target, rows) = make_lm("llama"), make_teaching(make_lm)
    quiet = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    before = PromptTrainer(source, rows, quiet).train()
    bank = AdapterTrainer(target, before, rows, quiet).train().migrate(before)
    taught = with_source_predictions(source, before, rows, noise=0)  # of rows that were trained on: labels do not count
    calibrated, found = calibrate(target, bank, taught)
    wrong = taught.remove_columns("label").add_column("label", [1.0] * len(taught))
    assert calibrate(target, bank, wrong)[1] == found and found.rows == len(rows)
    told = evaluate_bank(target, calibrated, rows, allow_training_rows=True)["metrics"]["rmse"]
    assert found.rmse_after < found.rmse_before and told != found.rmse_after
    held_out = HeldOut.build(target, calibrated, rows, allow_training_rows=True)
    lacking = held_out.own - np.asarray(taught["source_prediction"][:])
    assert found.rmse_after == pytest.approx(float(np.sqrt(np.mean(lacking**2))), rel=1e-4)


def test_calibrating_a_bank(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_teaching(make_lm)
    adapter = AdapterTrainer(
        lm, make_training(1), rows, PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    ).train()
    bank = migrate(adapter, make_training(2))
    lower = rows.map(lambda row: {"label": max(1.0, row["label"] - 1)})
    calibrated, found = calibrate(lm, bank, lower)
    assert found.rows == len(rows) and found.rmse_after < found.rmse_before
    assert np.array_equal(calibrated.prompts, bank.prompts)
    assert calibrated.provenance.details["calibrated"]["rows"] == found.rows
    before = evaluate_bank(lm, bank, lower)["metrics"]["rmse"]
    after = evaluate_bank(lm, calibrated, lower)["metrics"]["rmse"]
    assert (before, after) == pytest.approx((found.rmse_before, found.rmse_after), rel=1e-4)
    with pytest.raises(ConfigurationError, match="no rating head"):
        calibrate(lm, PromptBank(bank.dataset, bank.provenance), lower)
    with pytest.raises(InteractionsError, match="none of"):
        calibrate(lm, bank, rows.map(lambda row: {"user_id": "x" + row["user_id"]}))
