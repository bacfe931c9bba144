"""The sensitivity of a training's mean prediction, and how prompts of trainings apart are aligned by it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import pipeline

from puma_hub import (
    AdapterTrainer,
    ClickTask,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaTrainingArguments,
    chain,
    migrate,
    with_sensitivity,
)
from puma_hub.bank import BankStatistics
from puma_hub.errors import BankError, InteractionsError, MismatchError
from puma_hub.training.sensitivity import ROWS
from tests.conftest import make_interactions
from tests.test_other_banks import OTHER, make_trained, make_training, plain

QUIET = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True, validation_share=0.0)


def mean_gradient(lm: PersonalizedLM, bank: PromptBank, texts: list[str], prompt: np.ndarray) -> np.ndarray:
    """By plain forwards of the transformers model over whole texts, one at a time."""
    asked = torch.from_numpy(prompt.copy()).requires_grad_(True)
    embed = lm.model.get_input_embeddings()
    predictions = []
    for row in range(len(texts)):
        encoded = lm.encode([{"item_text": texts[row]}], len(prompt))
        before, after = (embed(torch.tensor(encoded.segments[0][place])) for place in (0, -1))
        logits = lm.model(inputs_embeds=torch.cat([before, asked, after])[None]).logits[0, -1, list(lm.answer_ids)]
        if bank.head is None:
            predictions.append(logits[0])  # the log-odds of a click
        else:
            predictions.append(bank.head.mlp((logits - logits.mean())[None])[0, 0])
    (gradient,) = torch.autograd.grad(torch.stack(predictions).mean(), asked)
    return gradient.numpy()


@pytest.mark.parametrize(
    ("family", "length", "task"), [("llama", 1, None), ("gemma3", 2, None), ("qwen2", 1, ClickTask())]
)
def test_a_training_records_the_gradient_of_its_mean_prediction(
    make_lm: Callable[..., PersonalizedLM], family: str, length: int, task: ClickTask | None
) -> None:
    labels = {"template": "<item>, read by <user>? Yes or No:", "task": task} if task else {}
    lm, rows = make_lm(family, **labels), make_interactions(6, 5)
    if task:
        clicks = [float(label > 3) for label in rows["label"][:]]
        rows = rows.remove_columns("label").add_column("label", clicks)
    bank = PromptTrainer(lm, rows, replace(QUIET, prompt_length=length)).train()
    expected = mean_gradient(lm, bank, rows["item_text"][:], bank.statistics.mean)
    found = bank.statistics.sensitivity
    assert found.dtype == np.float32 and found.shape == bank.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max() + 1e-7
    bare = bank.with_provenance(statistics=replace(bank.statistics, sensitivity=None))
    assert np.allclose(with_sensitivity(lm, bare, rows, batch_size=7).statistics.sensitivity, expected, rtol=1e-3)


def test_independent_prompts_have_none(make_lm: Callable[..., PersonalizedLM]) -> None:
    trainer = PromptTrainer(make_lm(), make_interactions(6, 5), replace(QUIET, prompt_method="independent"))
    assert trainer.train().statistics.sensitivity is None and trainer.report["flops"]["sensitivity"] == 0


def test_many_rows_are_represented_by_some(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm(), make_interactions(40, 10)
    bank = PromptTrainer(lm, rows, QUIET).train()
    some = rows.select(np.linspace(0, len(rows) - 1, ROWS).round().astype(int))
    expected = mean_gradient(lm, bank, some["item_text"][:], bank.statistics.mean)
    assert np.abs(bank.statistics.sensitivity - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_adapter_records_both_sides(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    rows = make_interactions(6, 5)
    bank = PromptTrainer(make_lm(), rows, QUIET).train()
    target = make_lm("gemma3")
    adapter = AdapterTrainer(target, bank, rows, QUIET).train()
    adapter.save_pretrained(tmp_path)
    loaded = PumaAdapter.from_pretrained(tmp_path)
    assert np.array_equal(loaded.input_sensitivity.numpy(), bank.statistics.sensitivity)
    migrated = migrate(loaded, bank)
    assert np.array_equal(migrated.statistics.sensitivity, adapter.output_sensitivity.numpy())
    expected = mean_gradient(target, migrated, rows["item_text"][:], migrated.statistics.mean)
    assert np.abs(migrated.statistics.sensitivity - expected).max() < 1e-3 * np.abs(expected).max()


def test_it_travels_with_the_bank(tmp_path: Path) -> None:
    bank = sensitive(make_training(1), 7)
    bank.select(["user-3"]).save_pretrained(tmp_path / "bank")
    again = PromptBank.from_pretrained(tmp_path / "bank").statistics
    assert again.sensitivity.tobytes() == bank.statistics.sensitivity.tobytes()
    with pytest.raises(BankError, match="sensitivity must be finite"):
        replace(bank.statistics, sensitivity=np.full((1, 32), np.inf))
    with pytest.raises(BankError, match=r"have the mean's shape \(1, 32\), got \(1, 31\)"):
        replace(bank.statistics, sensitivity=np.zeros((1, 31)))
    with pytest.raises(BankError, match="malformed"):
        BankStatistics.from_dict({**bank.statistics.to_dict(), "sensitivity": "no base64"})


# Alignment


def sensitive(bank: PromptBank, seed: int) -> PromptBank:
    sensitivity = np.random.default_rng(seed).normal(size=bank.shape)
    return bank.with_provenance(statistics=replace(bank.statistics, sensitivity=sensitivity))


def sensitive_adapter(*banks: PromptBank) -> PumaAdapter:
    adapter = make_trained(*banks)
    joined = np.concatenate([bank.statistics.sensitivity for bank in banks], axis=-1)
    with torch.no_grad():
        adapter.input_sensitivity.copy_(torch.from_numpy(joined))
    return adapter


def nearest_offsets(bank: PromptBank, ours: np.ndarray) -> np.ndarray:
    """Of all offsets that move the mean prediction alike, the nearest: a least squares with one constraint each."""
    offsets = (bank.prompts - bank.statistics.mean).reshape(len(bank), -1).astype(np.float64)
    theirs, ours = bank.statistics.sensitivity.ravel().astype(np.float64), ours.ravel().astype(np.float64)
    size = len(ours)
    system = np.block([[np.eye(size), ours[:, None]], [ours[None], np.zeros((1, 1))]])  # Lagrange
    sides = np.concatenate([offsets.T, (offsets @ theirs)[None]])
    return np.linalg.solve(system, sides)[:size].T.reshape(bank.prompts.shape)


def test_offsets_move_the_mean_prediction_as_far_as_at_home() -> None:
    own, apart = sensitive(make_training(1), 7), sensitive(make_training(2), 8)
    adapter = sensitive_adapter(own)
    offsets = nearest_offsets(apart, own.statistics.sensitivity)
    at_home = (apart.prompts - apart.statistics.mean).reshape(len(apart), -1) @ apart.statistics.sensitivity.ravel()
    assert np.allclose(offsets.reshape(len(apart), -1) @ own.statistics.sensitivity.ravel(), at_home, atol=1e-5)
    by_hand = plain(adapter, (own.statistics.mean + offsets).astype(np.float32))
    migrated = migrate(adapter, apart)
    assert np.abs(migrated.prompts - by_hand).max() < 1e-3
    unaligned = migrate(adapter, apart, mean=apart.statistics.mean).prompts
    assert np.abs(unaligned - by_hand).max() > 0.1
    assert np.array_equal(migrate(adapter, apart.select(["user-5"]))["user-5"], migrated["user-5"])
    assert np.array_equal(pipeline("prompt-migration", model=adapter)(apart["user-5"], mean=apart), migrated["user-5"])


def test_the_adapters_own_bank_keeps_its_bits() -> None:
    own = sensitive(make_training(1), 7)
    assert np.array_equal(migrate(sensitive_adapter(own), own).prompts, plain(make_trained(own), own.prompts))


def test_each_source_is_aligned_with_its_own() -> None:
    first, second = sensitive(make_training(1), 7), sensitive(make_training(3, OTHER), 8)
    adapter = sensitive_adapter(first, second)
    apart = sensitive(make_training(4, OTHER), 9)
    offsets = nearest_offsets(apart, second.statistics.sensitivity)
    together = np.concatenate([first.prompts, second.statistics.mean + offsets], axis=-1).astype(np.float32)
    assert np.abs(migrate(adapter, [first, apart]).prompts - plain(adapter, together)).max() < 1e-3


def test_chains_align_each_step() -> None:
    own, apart = sensitive(make_training(1), 7), sensitive(make_training(2), 8)
    first = sensitive_adapter(own)
    with torch.no_grad():
        first.output_sensitivity.normal_()
    middle = migrate(first, apart)
    assert middle.statistics.sensitivity.tobytes() == first.output_sensitivity.numpy().tobytes()
    second = sensitive_adapter(sensitive(make_training(5, middle.model, spread=3.0), 6))
    assert np.array_equal(chain(apart, [first, second]).prompts, migrate(second, middle).prompts)


def test_where_it_is_not_known(caplog: pytest.LogCaptureFixture) -> None:
    own, apart = make_training(1), make_training(2)
    adapter = sensitive_adapter(sensitive(own, 7))
    migrated = migrate(adapter, apart)
    assert "bank 1 records no sensitivity" in caplog.text and "with_sensitivity" in caplog.text
    assert np.array_equal(migrated.prompts, migrate(adapter, apart, mean=apart.statistics.mean).prompts)
    caplog.clear()
    migrate(make_trained(own), sensitive(apart, 8))
    assert "the adapter's source bank records no sensitivity" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        migrate(adapter, sensitive(apart, 8))
        migrate(adapter, sensitive(own, 7))
    assert not caplog.text


def test_what_cannot_have_one(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm(), make_interactions(6, 5)
    bank = PromptTrainer(lm, rows, QUIET).train()
    with pytest.raises(InteractionsError, match="no rows"):
        with_sensitivity(lm, bank, datasets.Dataset.from_dict({"item_text": []}))
    with pytest.raises(MismatchError):
        with_sensitivity(make_lm("gemma3"), bank, rows)
    one = PromptBank.from_arrays(["a"], bank.prompts[:1], bank.model, head=bank.head, task=lm.task)
    with pytest.raises(BankError, match="no mean"):
        with_sensitivity(lm, one, rows)
