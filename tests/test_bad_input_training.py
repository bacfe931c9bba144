"""Mistakes in selection, training and evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from puma_hub import (
    AdapterTrainer,
    ClickTask,
    PumaAdapter,
    compare_banks,
    evaluate_bank,
    select_users,
)
from puma_hub import errors as e
from puma_hub.training import with_source_predictions
from tests.bad_input import (
    Case,
    require_clear_error,
    resumed,
    resumed_cut,
)
from tests.conftest import make_bank

CASES: dict[str, Case] = {
    "unknown strategy": (lambda p: select_users(p.bank, p.rows, "best"), e.ConfigurationError, "choose one of"),
    "empty budget": (lambda p: select_users(p.bank, p.rows, budget=0), e.SelectionError, "whole number >= 1"),
    "users without rows": (
        lambda p: AdapterTrainer(p.lm, make_bank(9), p.rows, users=["user-8"]),
        e.SelectionError,
        "none of the 1 chosen users",
    ),
    "users in no bank": (lambda p: AdapterTrainer(p.lm, p.bank, p.rows, users=["x"]), e.SelectionError, "in no bank"),
    "bank of another task": (
        lambda p: AdapterTrainer(p.lm, p.own_bank(task=ClickTask()), p.rows),
        e.MismatchError,
        "the same task",
    ),
    "init of another task": (
        lambda p: AdapterTrainer(
            p.lm,
            p.own_bank(),
            p.rows,
            init=PumaAdapter(p.config(sources=[p.lm.spec], target=p.lm.spec, task=ClickTask())),
        ),
        e.MismatchError,
        "init was made for ClickTask",
    ),
    "a teacher asked with another template": (
        lambda p: with_source_predictions(p.lm, p.own_bank(template="<user> rates <item>:"), p.rows),
        e.MismatchError,
        "give the scorer the bank's template",
    ),
    "a rate that blows up": (lambda p: p.fit(learning_rate=1e30).train(), e.ConfigurationError, "lower learning rate"),
    "no epochs": (lambda p: p.fit(num_train_epochs=0), e.ConfigurationError, "num_train_epochs"),
    "negative rate": (lambda p: p.fit(learning_rate=-1.0), e.ConfigurationError, "learning_rate"),
    "unknown method": (lambda p: p.fit(prompt_method="free"), e.ConfigurationError, "shared, independent"),
    "unknown schedule": (lambda p: p.fit(lr_scheduler_type="wild").train(), e.ConfigurationError, "lr_scheduler_type"),
    "resumed with other settings": (resumed, e.CheckpointError, "other settings or data"),
    "resumed from half a file": (resumed_cut, e.CheckpointError, "delete it to start again"),
    "evaluated by another LLM": (
        lambda p: evaluate_bank(p.lm, make_bank(size=16), p.rows),
        e.MismatchError,
        "hidden size",
    ),
    "evaluated on strangers": (
        lambda p: evaluate_bank(
            p.lm, p.own_bank().select(["user-1"]), p.rows.filter(lambda r: r["user_id"] == "user-2")
        ),
        e.InteractionsError,
        "check the user ids",
    ),
    "compared without common users": (
        lambda p: compare_banks(p.lm, p.own_bank().select(["user-1"]), p.lm, p.own_bank().select(["user-2"]), p.rows),
        e.MismatchError,
        "share no user",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_and_nothing_left(case: str, tmp_path: Path) -> None:
    require_clear_error(CASES[case], tmp_path)
