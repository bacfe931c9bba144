"""Callbacks of transformers in the training loop: when they are called, what they stop, and how they are resumed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from puma_hub import AdapterTrainer, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments
from puma_hub.errors import ConfigurationError
from puma_hub.training.progress import ProgressCallback
from puma_hub.training.prompt_module import PromptModule
from tests.conftest import make_bank, make_interactions
from tests.test_training import Killed, kill_after

MakeLM = Callable[..., PersonalizedLM]
ARGS = PumaTrainingArguments(
    prompt_method="shared",
    num_train_epochs=2,
    per_device_train_batch_size=32,
    disable_tqdm=True,
    seed=3,
    validation_share=0.25,
)
STEPS = 3  # an epoch of 72 training rows


class Recorder(TrainerCallback):
    """Writes down the events it is told of."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.seen: list[tuple[TrainerState, dict[str, Any]]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
            self.events.append(name)
            self.seen.append((state, given))

        return note


class StopsEpochs(TrainerCallback):
    """Ends each epoch after its second step."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> TrainerControl:
        control.should_epoch_stop = round(state.epoch % 1 * STEPS) == 2
        return control


def validation_losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the validation losses of prompts be ``values``, by the number of the epoch just trained."""
    original = PromptModule.forward
    steps = [0]

    def forward(self: PromptModule, numbers: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        return original(self, numbers)

    monkeypatch.setattr(PromptModule, "forward", forward)
    monkeypatch.setattr(PromptModule, "validate", lambda self: values[steps[0] // STEPS - 1])


def test_events_come_in_transformers_order(make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path) -> None:
    recorder = Recorder()
    args = replace(ARGS, num_train_epochs=1, output_dir=str(tmp_path))
    trainer = AdapterTrainer(make_lm(), make_bank(), interactions, args, callbacks=[recorder])
    trainer.train()
    step = ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    logs = ["on_log"] * 2  # the loss, and the validation loss
    after = ["on_epoch_end", *logs, "on_evaluate", "on_save", "on_log", "on_save", "on_train_end"]
    assert recorder.events == ["on_train_begin", "on_epoch_begin", *step * STEPS, *after]
    state, given = recorder.seen[-1]
    assert (state.global_step, state.max_steps, state.epoch) == (STEPS, STEPS, 1.0)
    assert given["model"].config.model_type == "puma_adapter" and given["processing_class"] is trainer.lm.tokenizer
    assert state.best_metric == trainer.report["validation_losses"][0] and state.best_global_step == STEPS
    assert {"loss", "eval_loss", "train_runtime"} <= {name for logs in state.log_history for name in logs}


def test_callbacks_are_added_and_removed_by_instance_or_class(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    first, second = Recorder(), Recorder()
    trainer = PromptTrainer(make_lm(), interactions, replace(ARGS, num_train_epochs=1), callbacks=[first])
    trainer.add_callback(second)
    trainer.remove_callback(first)
    trainer.add_callback(EarlyStoppingCallback)
    trainer.remove_callback(EarlyStoppingCallback)
    trainer.train()
    assert not first.events and second.events[0] == "on_train_begin"
    assert not any(isinstance(callback, EarlyStoppingCallback) for callback in trainer.callback_handler.callbacks)


def test_early_stopping_of_transformers(
    make_lm: MakeLM, interactions: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation_losses(monkeypatch, [3.0, 2.0, 2.5, 2.4, 1.0])
    args = replace(ARGS, num_train_epochs=5)
    trainer = PromptTrainer(make_lm(), interactions, args, callbacks=[EarlyStoppingCallback(2)])
    stopped = trainer.train()
    assert trainer.report["validation_losses"] == [3.0, 2.0, 2.5, 2.4]
    assert trainer.report["best_epoch"] == 2 and trainer.report["epochs"] == 4
    monkeypatch.undo()
    validation_losses(monkeypatch, [3.0, 2.0, 2.5, 2.4, 1.0])
    assert np.array_equal(trainer.train().prompts, stopped.prompts)  # its counter begins again


@pytest.mark.parametrize("saves", [4, 5, 8, 11, 12])
def test_resumed_with_early_stopping_it_stops_where_it_would_have(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path, saves: int
) -> None:
    def run(folder: Path | None) -> tuple[PromptBank, dict[str, Any], list[dict[str, float]]]:
        args = replace(ARGS, num_train_epochs=9, learning_rate=0.5, output_dir=folder and str(folder))
        recorder = Recorder()
        callbacks = [EarlyStoppingCallback(2), recorder]
        trainer = PromptTrainer(
            make_lm(), interactions, replace(args, checkpoint_seconds=0, logging_steps=2), callbacks=callbacks
        )
        bank = trainer.train()
        history = [logs for logs in recorder.seen[-1][0].log_history if "train_runtime" not in logs]
        return bank, trainer.report, history

    whole, report, history = run(None)
    assert 3 <= report["epochs"] < 9
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, saves)
        with pytest.raises(Killed):
            run(tmp_path)
    resumed, again, logged = run(tmp_path)
    assert np.array_equal(resumed.prompts, whole.prompts)
    assert again["validation_losses"] == report["validation_losses"] and again["losses"] == report["losses"]
    assert logged == history and len(history) > 6


@pytest.mark.parametrize("fields", [{"validation_share": 0.0}, {"eval_strategy": "no"}])
def test_early_stopping_without_validation_is_refused(
    make_lm: MakeLM, interactions: datasets.Dataset, fields: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="EarlyStoppingCallback goes by the validation loss"):
        PromptTrainer(make_lm(), interactions, replace(ARGS, **fields), callbacks=[EarlyStoppingCallback()]).train()


@pytest.mark.parametrize("saves", [2, 3, 5])
def test_an_epoch_that_a_callback_ends(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path, saves: int
) -> None:
    def run(folder: Path | None) -> tuple[PromptBank, dict[str, Any]]:
        args = replace(ARGS, output_dir=folder and str(folder), checkpoint_seconds=0)
        trainer = PromptTrainer(make_lm(), interactions, args, callbacks=[StopsEpochs])
        return trainer.train(), trainer.report

    whole, report = run(None)
    assert report["epochs"] == 2 and len(report["validation_losses"]) == 2
    full = PromptTrainer(make_lm(), interactions, ARGS)
    full.train()
    once = report["flops"]["prefix_cache"] + report["flops"]["sensitivity"]
    assert report["flops"]["total"] - once < full.report["flops"]["total"] - once
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, saves)
        with pytest.raises(Killed):
            run(tmp_path)
    resumed, again = run(tmp_path)
    assert np.array_equal(resumed.prompts, whole.prompts) and again["losses"] == report["losses"]


def test_what_is_logged_is_the_mean_loss_since_the_last_log(make_lm: MakeLM, interactions: datasets.Dataset) -> None:
    losses: list[float] = []
    original = PromptModule.forward

    def forward(self: PromptModule, numbers: torch.Tensor) -> torch.Tensor:
        losses.append(float(original(self, numbers).detach()))
        return original(self, numbers)

    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptModule, "forward", forward)
        PromptTrainer(make_lm(), interactions, replace(ARGS, logging_steps=2), callbacks=[recorder]).train()
    logged = {log["step"]: log["loss"] for log in recorder.seen[-1][0].log_history if "loss" in log}
    means = {2: losses[:2], 3: losses[2:3], 4: losses[3:4], 6: losses[4:6]}
    assert logged == {step: pytest.approx(np.mean(part)) for step, part in means.items()}


def test_one_callback_shows_progress(
    make_lm: MakeLM, interactions: datasets.Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = replace(ARGS, disable_tqdm=False)
    PromptTrainer(make_lm(prefix_cache="full"), interactions, shown).train()
    told = capfd.readouterr().err
    assert "prompts: 100%" in told and "6/6" in told and "prefix cache" in told
    assert re.search(r"loss=[\d.]+, validation=[\d.]+", told)
    trainer = PromptTrainer(make_lm(prefix_cache="full"), interactions, shown)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    assert "it/s" not in capfd.readouterr().err


def test_the_llm_is_none_of_the_modules_parameters(make_lm: MakeLM, bank: PromptBank) -> None:
    lm, rows = make_lm(), make_interactions()
    own = {id(parameter) for parameter in lm.model.parameters()}
    for trainer in (PromptTrainer(lm, rows, ARGS), AdapterTrainer(lm, bank, rows, ARGS)):
        module = trainer._module()
        assert not own & {id(parameter) for parameter in module.parameters()}
        names = {name.split(".")[0] for name in module.state_dict()}
        assert names <= {"prompts", "base", "head", "answers", "adapter", "residuals"}
