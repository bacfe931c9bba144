"""Steps and their rates: warm-up, accumulation, validation by steps, what is resumed, and runs that are extended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from puma_hub import AdapterTrainer, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments
from puma_hub.data import of_users
from puma_hub.data.split import TimeOrder
from puma_hub.errors import CheckpointError, ConfigurationError
from puma_hub.training.state import STATE_FILE
from tests.conftest import make_bank
from tests.test_training import Killed, kill_after
from tests.test_training_callbacks import Recorder

MakeLM = Callable[..., PersonalizedLM]
ARGS = PumaTrainingArguments(
    prompt_method="shared",
    num_train_epochs=4,
    per_device_train_batch_size=32,
    disable_tqdm=True,
    seed=3,
    validation_share=0.25,
)
STEPS = 3  # an epoch of 72 training rows


def rates(lm: PersonalizedLM, rows: datasets.Dataset, args: PumaTrainingArguments) -> dict[int, float]:
    """The learning rate after each step, as logged."""
    recorder = Recorder()
    PromptTrainer(lm, rows, replace(args, logging_steps=1), callbacks=[recorder]).train()
    history = recorder.seen[-1][0].log_history
    return {int(log["step"]): log["learning_rate"] for log in history if "learning_rate" in log}


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (4, 4), (0.25, 3)])
def test_rates_warm_up_and_fall(make_lm: MakeLM, interactions: datasets.Dataset, warmup: float, steps: int) -> None:
    found = rates(make_lm(), interactions, replace(ARGS, learning_rate=0.5, warmup_steps=warmup))
    assert found == {step: pytest.approx(0.5 * cosine(step, 12, steps), abs=1e-9) for step in range(1, 13)}


def test_a_constant_rate_has_no_warm_up(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    args = replace(ARGS, lr_scheduler_type="constant", warmup_steps=2)
    with pytest.raises(ConfigurationError, match="constant_with_warmup"):
        PromptTrainer(make_lm(), interactions, args).train()


def test_accumulated_steps_are_those_of_the_whole_batch(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    parts = replace(ARGS, per_device_train_batch_size=8, gradient_accumulation_steps=4)
    trainers = [PromptTrainer(make_lm(), interactions, args) for args in (ARGS, parts)]
    whole, accumulated = (trainer.train() for trainer in trainers)
    np.testing.assert_allclose(accumulated.prompts, whole.prompts, atol=1e-5)
    assert trainers[1].report["losses"] == pytest.approx(trainers[0].report["losses"], rel=1e-5)
    answers = [bank.provenance.details["mean_answers"] for bank in (accumulated, whole)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)
    still = {"lr_scheduler_type": "constant", "num_train_epochs": 1}
    lm, bank = make_lm(), make_bank(family="llama")
    options: dict[str, Any] = {"config": None}
    learnt = []
    for args in (replace(ARGS, **still), replace(parts, **still)):
        trainer = AdapterTrainer(lm, bank, interactions, args, **options)
        trainer.adapter.config.dropout = 0.0
        for module in trainer.adapter.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        learnt.append(trainer.train().state_dict())
    for name, tensor in learnt[0].items():
        torch.testing.assert_close(learnt[1][name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("saves", [2, 5, 9])
def test_resumed_while_accumulating_is_the_same_bits(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path, saves: int
) -> None:
    args = replace(
        ARGS,
        per_device_train_batch_size=10,
        gradient_accumulation_steps=3,
        checkpoint_seconds=0,
        warmup_steps=2,
        eval_strategy="steps",
        eval_steps=2,
    )

    def run(folder: Path | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        given = replace(args, output_dir=folder and str(folder))
        trainer = AdapterTrainer(make_lm(), make_bank(), interactions, given)
        return trainer.train().state_dict(), trainer.report

    whole, report = run(None)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, saves)
        with pytest.raises(Killed):
            run(tmp_path)
    resumed, again = run(tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert again["validation_losses"] == report["validation_losses"]


def test_validation_by_steps(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    recorder = Recorder()
    args = replace(ARGS, num_train_epochs=3, eval_strategy="steps", eval_steps=4)
    trainer = PromptTrainer(make_lm(), interactions, args, callbacks=[recorder])
    trainer.train()
    history = [log for log in recorder.seen[-1][0].log_history if "eval_loss" in log]
    assert [log["step"] for log in history] == [4, 8, 9]  # and at the end
    losses = [log["eval_loss"] for log in history]
    assert trainer.report["validation_losses"] == losses
    assert trainer.report["best_epoch"] == pytest.approx(history[int(np.argmin(losses))]["step"] / STEPS)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses))


def test_without_validation_the_last_weights_are_kept(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    trainer = PromptTrainer(make_lm(), interactions, replace(ARGS, eval_strategy="no", learning_rate=0.5))
    trainer.train()
    assert trainer.report["best_epoch"] == 4 and trainer.report["validation_losses"] == [None] * 4
    chosen = PromptTrainer(make_lm(), interactions, replace(ARGS, learning_rate=0.5))
    chosen.train()
    last = chosen.report["validation_losses"][-1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(last)
    assert chosen.evaluate()["eval_loss"] == pytest.approx(min(chosen.report["validation_losses"]))


def test_evaluate_by_an_independent_forward(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    lm = make_lm()
    trainer = PromptTrainer(lm, interactions, ARGS)
    before = trainer.evaluate()
    bank = trainer.train()
    order = TimeOrder.of(interactions)
    held_out = interactions.select(np.sort(order.rows[order.position >= 9]).tolist())
    prompts = torch.from_numpy(np.stack([bank[user] for user in held_out["user_id"]]))
    assert bank.head is not None
    with torch.no_grad():
        predictions = bank.head(lm.logits(prompts, held_out.select_columns(["item_text"]))).numpy()
    found = trainer.evaluate()
    assert found["eval_rmse"] == pytest.approx(root_mean_squared_error(held_out["label"], predictions), abs=1e-5)
    assert found["eval_mae"] == pytest.approx(mean_absolute_error(held_out["label"], predictions), abs=1e-5)
    assert found["eval_loss"] == pytest.approx(min(trainer.report["validation_losses"])) and before != found
    with pytest.raises(ConfigurationError, match="no validation rows"):
        PromptTrainer(lm, interactions, replace(ARGS, validation_share=0.0)).evaluate()


def test_evaluate_of_an_adapter_by_an_independent_forward(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    lm, bank = make_lm(), make_bank()
    trainer = AdapterTrainer(lm, bank, interactions, replace(ARGS, learning_rate=0.1))
    start = trainer.evaluate()
    adapter = trainer.train()
    held_out = of_users(interactions, sorted(set(bank.user_ids) - set(trainer.users)))
    prompts = torch.from_numpy(np.stack([bank[user] for user in held_out["user_id"]]))
    assert adapter.head is not None and len(set(held_out["user_id"])) == 2
    with torch.no_grad():
        logits = lm.logits(adapter(prompts).target_prompts, held_out.select_columns(["item_text"]))
        predictions = adapter.head(logits).numpy()
        for parameter in adapter.parameters():
            parameter.zero_()  # what was given away is not what is evaluated
    found = trainer.evaluate()
    assert found["eval_rmse"] == pytest.approx(root_mean_squared_error(held_out["label"], predictions), abs=1e-5)
    assert found["eval_loss"] != start["eval_loss"] and trainer.adapter.base.any()


def train(lm: PersonalizedLM, rows: datasets.Dataset, folder: Path | None, **fields: Any) -> PromptBank:
    resume = fields.pop("resume", None)
    args = replace(ARGS, output_dir=folder and str(folder), checkpoint_seconds=0, **fields)
    return PromptTrainer(lm, rows, args).train(resume_from_checkpoint=resume)


def test_what_a_run_is_resumed_from(make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    whole = train(make_lm(), interactions, None)
    with pytest.raises(ConfigurationError, match="give one"):
        train(make_lm(), interactions, None, resume=True)
    for resume in (True, str(tmp_path / "none")):
        with pytest.raises(CheckpointError, match=f"no {STATE_FILE}"):
            train(make_lm(), interactions, one, resume=resume)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 6)
        with pytest.raises(Killed):
            train(make_lm(), interactions, one)
    half = (one / STATE_FILE).read_bytes()
    for resume, folder in ((True, one), (one, two), (one, None)):
        (one / STATE_FILE).write_bytes(half)
        assert np.array_equal(train(make_lm(), interactions, folder, resume=resume).prompts, whole.prompts)
    assert (two / STATE_FILE).is_file() and (one / STATE_FILE).read_bytes() == half
    with pytest.raises(CheckpointError, match="other settings"):
        train(make_lm(), interactions, one, seed=4)
    other = train(make_lm(), interactions, one, seed=4, resume=False)
    assert not np.array_equal(other.prompts, whole.prompts)
    assert np.array_equal(train(make_lm(), interactions, one, seed=4, resume=True).prompts, other.prompts)


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup"])
def test_with_a_constant_rate_an_extended_run_is_the_long_run(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path, schedule: str
) -> None:
    fields = {"lr_scheduler_type": schedule, "warmup_steps": 2 if "warmup" in schedule else 0}
    whole = train(make_lm(), interactions, None, num_train_epochs=4, **fields)
    train(make_lm(), interactions, tmp_path, num_train_epochs=2, **fields)
    extended = train(make_lm(), interactions, tmp_path, num_train_epochs=4, **fields)
    assert np.array_equal(extended.prompts, whole.prompts)
    with pytest.raises(CheckpointError, match="was for 4 epochs, num_train_epochs=3"):
        train(make_lm(), interactions, tmp_path, num_train_epochs=3, **fields)


def test_a_falling_rate_goes_on_where_the_longer_schedule_is(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path
) -> None:
    args = replace(ARGS, learning_rate=0.5, output_dir=str(tmp_path))
    short = rates(make_lm(), interactions, replace(args, num_train_epochs=2))
    assert short == {step: pytest.approx(0.5 * cosine(step, 6), abs=1e-9) for step in range(1, 7)}
    extended = rates(make_lm(), interactions, args)
    later = {step: pytest.approx(0.5 * cosine(step, 12), abs=1e-9) for step in range(7, 13)}
    assert extended == {**short, **later}


def test_an_adapter_that_was_solved_for_is_refined_later(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path
) -> None:
    taught = interactions.add_column("source_prediction", interactions["label"][:])  # type: ignore[call-arg]
    taught = taught.add_column("source_probabilities", [[0.2] * 5] * len(taught))

    def run(epochs: int, folder: Path | None) -> dict[str, torch.Tensor]:
        args = replace(ARGS, num_train_epochs=epochs, output_dir=folder and str(folder))
        return AdapterTrainer(make_lm(), make_bank(), taught, args).train().state_dict()

    run(0, tmp_path)
    extended, whole = run(2, tmp_path), run(2, None)
    assert all(torch.equal(tensor, extended[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    "fields",
    [
        {"warmup_steps": -1},
        {"warmup_steps": 2.5},
        {"logging_steps": 0},
        {"eval_steps": 5},
        {"eval_strategy": "sometimes"},
        {"eval_strategy": "steps", "eval_steps": 0},
        {"gradient_accumulation_steps": 0},
        {"gradient_batch_size": 0},
    ],
)
def test_bad_settings(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(reversed(fields))):
        PumaTrainingArguments(**fields)
