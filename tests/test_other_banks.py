"""Adapters on banks that were trained apart: each bank is standardised by the mean of its own training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import (
    AdapterTrainer,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    chain,
    migrate,
)
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError
from tests.trainings import OTHER, SOURCE, TARGET, USERS, make_teaching, make_trained, make_training, plain


@pytest.mark.parametrize("architecture", ["seed", "paper", "linear"])
def test_a_bank_trained_apart_is_counted_from_its_own_mean(architecture: str) -> None:
    own, apart = make_training(1), make_training(2)
    adapter = make_trained(own, architecture=architecture)
    expected = plain(adapter, own.prompts)
    assert np.array_equal(migrate(adapter, own).prompts, expected)
    # The offsets are the same, so the target prompts have to be, although the bases lie far apart.
    assert np.abs(migrate(adapter, apart).prompts - expected).max() < 1e-3
    assert np.abs(plain(adapter, apart.prompts) - expected).max() > 0.5
    by_hand = plain(adapter, apart.prompts - apart.statistics.mean + own.statistics.mean)
    assert np.abs(migrate(adapter, apart).prompts - by_hand).max() < 1e-3


def test_a_user_comes_out_alike_alone_and_among_others() -> None:
    adapter, bank = make_trained(make_training(1)), make_training(2)
    whole = migrate(adapter, bank)
    for names in (["user-7"], ["user-31", "user-7"]):
        part = migrate(adapter, bank.select(names))
        assert np.array_equal(part["user-7"], whole["user-7"])
        assert part.statistics == whole.statistics


def test_several_sources_each_by_its_own_mean() -> None:
    first, second = make_training(1), make_training(3, OTHER)
    adapter = make_trained(first, second)
    expected = migrate(adapter, [first, second]).prompts
    apart = migrate(adapter, [make_training(2), make_training(4, OTHER)])
    assert np.abs(apart.prompts - expected).max() < 1e-3
    mixed = migrate(adapter, [first, make_training(4, OTHER)], mean=["adapter", make_training(4, OTHER)])
    assert np.abs(mixed.prompts - expected).max() < 1e-3
    with pytest.raises(ConfigurationError, match=r"1 mean\(s\) for 2 source"):
        migrate(adapter, [first, second], mean=first)


def test_chains_count_from_the_mean_of_each_step() -> None:
    first = make_trained(make_training(1))
    middle = migrate(first, make_training(1))
    torch.manual_seed(1)
    second = PumaAdapter(PumaConfig(sources=[TARGET], target=ModelSpec("end", 20), hidden_size=40)).eval()
    known = middle.statistics
    second.standardize(torch.from_numpy(known.mean.copy()), [known.spread], 1.0)
    facts = (SourceBank(known.base_id, known.spread, known.users),)
    second.config.trained_on = TrainedOn(facts, 20.0, 0.5, USERS)
    expected = migrate(second, middle).prompts
    bank = make_training(2)
    assert np.abs(chain(bank, [first, second]).prompts - expected).max() < 1e-2
    assert np.array_equal(
        chain(bank.select(["user-5"]), [first, second])["user-5"], chain(bank, [first, second])["user-5"]
    )


def test_what_the_provenance_tells_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    adapter, own, apart = make_trained(make_training(1)), make_training(1), make_training(2)
    with caplog.at_level(logging.INFO, "puma_hub"):
        migrated = migrate(adapter, apart)
    assert "another training" in caplog.text and "user-" not in caplog.text
    details = migrated.provenance.details
    assert details["own_source_bank"] is False and details["head"] == "the adapter's"
    assert migrate(adapter, own).provenance.details["own_source_bank"] is True
    for name, tensor in adapter.head.state_dict().items():
        assert torch.equal(migrated.head.state_dict()[name], tensor)
    assert migrated.statistics.mean.tobytes() == adapter.output_mean.numpy().tobytes()


def test_training_records_source_and_target_bank(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_teaching(make_lm)
    bank = make_training(1)
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    adapter = AdapterTrainer(lm, bank, rows, arguments).train()
    trained = adapter.config.trained_on
    assert trained.sources == (SourceBank(bank.statistics.base_id, bank.statistics.spread, USERS),)
    offsets = (bank.prompts - bank.statistics.mean) / bank.statistics.spread
    assert trained.farthest == pytest.approx(float(np.sqrt(np.square(offsets).mean((1, 2))).max()), rel=1e-4)
    migrated = migrate(adapter, bank)
    assert np.allclose(migrated.prompts.mean(0), migrated.statistics.mean, atol=1e-5)
    # A part of the bank has the mean of the whole: the same adapter, to the bit.
    part = bank.select(bank.user_ids[:20])
    small = AdapterTrainer(lm, part, rows, arguments)
    assert torch.equal(small.adapter.input_mean, adapter.input_mean)


@pytest.mark.parametrize("architecture", ["seed", "paper", "linear"])
def test_a_trained_adapter_on_another_bank_keeps_its_map(
    make_lm: Callable[..., PersonalizedLM], architecture: str
) -> None:
    lm, rows = make_teaching(make_lm)
    arguments = PumaTrainingArguments(num_train_epochs=2, learning_rate=1e-2, disable_tqdm=True)
    config = PumaConfig(architecture=architecture, hidden_size=48)
    trained = AdapterTrainer(lm, make_training(1), rows, arguments, config=config).train()
    apart = make_training(2, spread=0.2)
    before = migrate(trained, apart).prompts
    again = AdapterTrainer(lm, apart, rows, arguments, init=trained).adapter.eval()
    assert np.abs(plain(again, apart.prompts) - before).max() < 1e-5


def test_on_the_command_line(tmp_path: Path, saved_lm: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    adapter, apart = make_trained(make_training(1)), make_training(2)
    adapter.save_pretrained(tmp_path / "adapter")
    apart.save_pretrained(tmp_path / "apart")
    few = PromptBank.from_arrays(["a", "b"], apart.prompts[:2].copy(), SOURCE)
    few.save_pretrained(tmp_path / "few")
    start = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank"]
    assert main([*start, str(tmp_path / "apart"), "--out", str(tmp_path / "out")]) == 0
    assert "separate trainings" in capsys.readouterr().out
    assert main([*start, str(tmp_path / "few"), "--out", str(tmp_path / "two")]) == 1
    assert "give mean=" in capsys.readouterr().err and not (tmp_path / "two").exists()
    whole = ["--mean", str(tmp_path / "apart"), "--out", str(tmp_path / "two")]
    assert main([*start, str(tmp_path / "few"), *whole]) == 0
    moved = PromptBank.from_pretrained(tmp_path / "two").prompts
    assert np.array_equal(moved, PromptBank.from_pretrained(tmp_path / "out").prompts[:2])
