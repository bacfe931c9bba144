"""Numbers that are not finite stop scoring and training with a word on rows, dtype and remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from puma_hub import AdapterTrainer, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments, evaluate_bank
from puma_hub.errors import ConfigurationError, NotFiniteError
from puma_hub.pipelines.scoring import PersonalizedScoringPipeline
from puma_hub.training import with_source_predictions
from puma_hub.training.adapter_module import AdapterModule
from puma_hub.training.prompt_module import PromptModule
from tests.conftest import make_bank, make_model

QUIET = PumaTrainingArguments(num_train_epochs=2, per_device_train_batch_size=32, disable_tqdm=True, seed=3)


@pytest.fixture
def in_dtype(tokenizer: Any) -> Callable[[torch.dtype], tuple[PersonalizedLM, PromptBank]]:
    """A scorer of a dtype, and a bank in which one of eight users has a prompt beyond float16."""

    def build(dtype: torch.dtype) -> tuple[PersonalizedLM, PromptBank]:
        lm = PersonalizedLM(make_model("llama").to(dtype), tokenizer, model_id="tiny/llama-0")  # type: ignore[arg-type]
        prompts = np.random.default_rng(0).normal(size=(8, 1, 32)).astype(np.float32)
        prompts[3] = 1e5
        return lm, PromptBank.from_arrays([f"user-{i}" for i in range(8)], prompts, lm.spec)

    return build


def test_rows_that_overflow_are_told(
    in_dtype: Callable[[torch.dtype], tuple[PersonalizedLM, PromptBank]], interactions: datasets.Dataset
) -> None:
    lm, bank = in_dtype(torch.float16)
    message = (
        "answers of 12 of 96 rows are NaN or infinite with the LLM in float16; load the LLM in bfloat16 or float32"
    )
    with pytest.raises(NotFiniteError, match=message):
        evaluate_bank(lm, bank, interactions)
    with pytest.raises(NotFiniteError, match=message):
        with_source_predictions(lm, bank, interactions, offset_share=1.0, noise=0)
    pipe = PersonalizedScoringPipeline(lm, bank=bank)
    rows = [{"user_id": f"user-{user}", "item_text": "Toy Story"} for user in range(8)]
    assert np.isfinite(pipe(rows[0])["score"])
    with pytest.raises(NotFiniteError, match=r"^input 3: the answers are NaN or infinite with the LLM in float16"):
        pipe(rows)
    wider, same = in_dtype(torch.bfloat16)
    assert np.isfinite(evaluate_bank(wider, same, interactions)["metrics"]["rmse"])


def spoil(monkeypatch: pytest.MonkeyPatch, lm: PersonalizedLM, change: Callable[..., torch.Tensor]) -> None:
    """Let ``change`` have its way with the scorer's logits, given them and the prompts."""
    logits = lm.logits
    monkeypatch.setattr(lm, "logits", lambda prompts, rows: change(logits(prompts, rows), prompts))


def nan_in_the_first_row(logits: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    return torch.cat([logits[:1] * float("nan"), logits[1:]])


def without_a_gradient(logits: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    return logits + (0.0 * prompts.sum()).square().sqrt()  # 0, whose square root has no slope


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan_in_the_first_row, "at step 1 the answers of 1 of 32 rows are NaN .* float32; check the LLM's weights"),
        (without_a_gradient, "at step 1 .* numbers of the gradient are NaN"),
    ],
)
def test_training_stops_at_the_first_such_step(
    make_lm: Callable[..., PersonalizedLM],
    interactions: datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., torch.Tensor],
    message: str,
) -> None:
    lm = make_lm()
    spoil(monkeypatch, lm, change)
    with pytest.raises(NotFiniteError, match=message):
        PromptTrainer(lm, interactions, QUIET).train()
    with pytest.raises(NotFiniteError, match=message):
        AdapterTrainer(lm, make_bank(), interactions, replace(QUIET, validation_share=0.0)).train()


@pytest.mark.parametrize(
    ("change", "message"),
    [(nan_in_the_first_row, "the answers of 1 of "), (without_a_gradient, "the gradients of 64 of 64 rows")],
)
def test_the_start_of_an_adapter_stops_too(
    make_lm: Callable[..., PersonalizedLM],
    interactions: datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., torch.Tensor],
    message: str,
) -> None:
    lm, bank = make_lm(), make_bank()
    taught = interactions.add_column("source_prediction", interactions["label"][:])  # type: ignore[call-arg]
    taught = taught.add_column("source_probabilities", [[0.2] * 5] * len(taught))
    trainer = AdapterTrainer(lm, bank, taught, replace(QUIET, validation_share=0.0))
    spoil(monkeypatch, lm, change)
    with pytest.raises(NotFiniteError, match=message):
        trainer.train()


@pytest.mark.parametrize("module", [PromptModule, AdapterModule])
def test_a_validation_loss_that_is_no_number_never_wins(
    make_lm: Callable[..., PersonalizedLM],
    interactions: datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    module: type,
) -> None:
    losses = iter([float("nan"), 1.0])
    monkeypatch.setattr(module, "validate", lambda self: next(losses))
    args = replace(QUIET, validation_share=0.25)
    trainer: PromptTrainer | AdapterTrainer = PromptTrainer(make_lm(), interactions, args)
    if module is AdapterModule:
        trainer = AdapterTrainer(make_lm(), make_bank(), interactions, args)
    with pytest.raises(ConfigurationError, match="validation loss is nan after epoch 1"):
        trainer.train()


def test_weights_that_run_away_are_told_as_such(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    far = replace(QUIET, num_train_epochs=2, per_device_train_batch_size=96, validation_share=0.0)
    with pytest.raises(ConfigurationError, match="lower learning rate"):
        PromptTrainer(make_lm(), interactions, replace(far, learning_rate=9e29)).train()
