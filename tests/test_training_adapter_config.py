"""What an adapter's trainer is given: every field counts or is refused, and training again gives the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch

from puma_hub import (
    AdapterTrainer,
    ClickTask,
    PersonalizedLM,
    PromptBank,
    PumaConfig,
    PumaTrainingArguments,
    RatingTask,
)
from puma_hub.data import of_users
from puma_hub.errors import ConfigurationError, MismatchError
from tests.conftest import make_bank

QUIET = PumaTrainingArguments(
    num_train_epochs=1, per_device_train_batch_size=32, disable_tqdm=True, seed=3, validation_share=0.0
)


def test_a_bare_config_is_made_whole(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    lm, bank = make_lm("gemma3"), make_bank(length=2)
    config = PumaConfig(architecture="seed", hidden_size=12, dropout=0.3)
    made = AdapterTrainer(lm, bank, interactions, QUIET, config=config).adapter.config
    assert (made.prompt_length, made.hidden_size, made.dropout) == (2, 12, 0.3)
    assert made.sources == [bank.model] and made.target == lm.spec
    assert made.scored_task == lm.task and made.template == lm.template.text
    assert AdapterTrainer(lm, bank, interactions, QUIET, config=made).adapter.config.to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_length": 3}, "prompt_length=3, the banks' prompts have length 2"),
        ({"task": ClickTask()}, "the config has the task ClickTask"),
        ({"task": RatingTask(mse_weight=0.5)}, "mse_weight=0.5"),
        ({"template": "<item> for <user>: "}, "give both the same template"),
        ({"dtype": "bfloat16"}, "trained in float32"),
    ],
)
def test_a_config_that_contradicts_is_refused(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, fields: dict[str, object], message: str
) -> None:
    with pytest.raises((MismatchError, ConfigurationError), match=message):
        AdapterTrainer(make_lm(), make_bank(length=2), interactions, QUIET, config=PumaConfig(**fields))


def test_a_whole_config_says_all_of_its_fields(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    lm = make_lm()
    one = PumaConfig(sources=[bank.model], target=lm.spec)
    with pytest.raises(MismatchError, match="prompt_length=1, the banks' prompts have length 2"):
        AdapterTrainer(lm, make_bank(length=2), interactions, QUIET, config=one)
    two = PumaConfig(sources=[bank.model, bank.model], target=lm.spec)
    with pytest.raises(MismatchError, match="config takes 2 sources, 1 banks"):
        AdapterTrainer(lm, bank, interactions, QUIET, config=two)


def test_config_and_init_have_to_agree(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    lm = make_lm()
    linear = PumaConfig(architecture="linear")
    init = AdapterTrainer(lm, bank, interactions, QUIET, config=linear).train()
    again = AdapterTrainer(lm, bank, interactions, QUIET, config=linear, init=init)
    assert again.adapter.config.architecture == "linear"
    with pytest.raises(ConfigurationError, match=r"has dropout=0\.4, init has 0\.1"):
        AdapterTrainer(lm, bank, interactions, QUIET, config=PumaConfig(dropout=0.4), init=init)
    with pytest.raises(MismatchError, match="init takes 1 sources, 2 banks"):
        AdapterTrainer(lm, [bank, bank], interactions, QUIET, init=init)


def test_training_again_gives_the_same(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank, tmp_path: Path
) -> None:
    lm = make_lm()
    for args in (QUIET, replace(QUIET, output_dir=str(tmp_path))):
        trainer = AdapterTrainer(lm, bank, interactions, args)
        beside = AdapterTrainer(lm, bank, of_users(interactions, ["user-1"]), QUIET)
        first = trainer.train().state_dict()
        beside.train()
        second = trainer.train().state_dict()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
        assert not torch.equal(first["base"], trainer.adapter.base)


def test_chosen_users_without_rows_are_counted(
    make_lm: Callable[..., PersonalizedLM],
    interactions: datasets.Dataset,
    bank: PromptBank,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = of_users(interactions, ["user-1", "user-2"])
    with caplog.at_level(logging.WARNING):
        trainer = AdapterTrainer(make_lm(), bank, rows, QUIET, users=["user-1", "user-2", "user-3", "user-3"])
    assert "1 of 3 chosen users have no training rows" in caplog.text
    trainer.train()
    assert trainer.report["users"] == {"train": 2, "validation": 0, "without_rows": 1, "bank": 8}
