"""What trackers are told: settings and losses, and nothing of users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from puma_hub import PersonalizedLM, PromptTrainer, PumaTrainingArguments
from puma_hub.errors import ConfigurationError, MissingDependencyError
from puma_hub.training import trackers

MakeLM = Callable[..., PersonalizedLM]
ARGS = PumaTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=32, disable_tqdm=True, validation_share=0.25, logging_steps=1
)


def require_no_users(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert files
    for path in files:
        assert b"user-1" not in path.read_bytes() and b"Toy Story" not in path.read_bytes()
        assert str(folder).encode() not in path.read_bytes()


def test_tensorboard(make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = replace(ARGS, output_dir=str(tmp_path), report_to="tensorboard", run_name="first")
    trainer = PromptTrainer(make_lm(), interactions, args)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "runs" / "first")).Reload()
    validation = [(event.step, pytest.approx(event.value)) for event in events.Scalars("eval_loss")]
    assert validation == list(zip([3, 6], trainer.report["validation_losses"]))
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    require_no_users(tmp_path)


def test_trackio(
    make_lm: MakeLM, interactions: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trainer = PromptTrainer(make_lm(), interactions, replace(ARGS, report_to=["trackio"], project="tiny"))
    trainer.train()
    [run] = trackio.Api().runs("tiny")
    assert run.name == "prompts"
    require_no_users(tmp_path)


def test_a_tracker_that_is_not_installed(
    make_lm: MakeLM, interactions: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    for name, package in (("trackio", "trackio"), ("comet_ml", "comet-ml")):
        with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
            PromptTrainer(make_lm(), interactions, replace(ARGS, report_to=name))


def test_trackers_that_cannot_be_used(
    make_lm: MakeLM, interactions: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="tensorbored"):
        PromptTrainer(make_lm(), interactions, replace(ARGS, report_to="tensorbored"))
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ConfigurationError, match="give output_dir"):
        PromptTrainer(make_lm(), interactions, replace(ARGS, report_to="tensorboard"))
    for none in ("none", None, [], ["none"]):
        assert not replace(ARGS, report_to=none).trackers
