"""Banks and arrays whose training's mean is not known, and the ways to give it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import pipeline

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    migrate,
)
from puma_hub.adapter.mapping import map_prompts
from puma_hub.bank.statistics import LEAST_USERS
from puma_hub.errors import BankError, ConfigurationError, MismatchError, PumaHubError
from tests.conftest import make_bank, make_interactions
from tests.trainings import OTHER, SOURCE, TARGET, USERS, make_trained, make_training, plain


def test_few_users_of_an_unknown_training_need_a_mean() -> None:
    adapter, training = make_trained(make_training(1)), make_training(2)
    prompts = training.prompts[:3].copy()
    few = PromptBank.from_arrays(["a", "b", "c"], prompts, SOURCE)
    with pytest.raises(BankError, match=rf"over {LEAST_USERS} users or more.*3 user\(s\).*give mean="):
        migrate(adapter, few)
    expected = migrate(adapter, training).prompts[:3]
    learned = torch.tensor(training.statistics.mean, requires_grad=True)
    for mean in (training, training.statistics.mean, training.statistics.mean.tolist(), learned):
        given = [mean] if isinstance(mean, list) else mean
        assert np.array_equal(migrate(adapter, few, mean=given).prompts, expected)
    with_statistics = PromptBank.from_arrays(["a", "b", "c"], prompts, SOURCE, statistics=training.statistics)
    assert np.array_equal(migrate(adapter, with_statistics).prompts, expected)
    one = PromptBank.from_arrays(["a"], prompts[:1], SOURCE)
    with pytest.raises(BankError, match="has that of none"):
        migrate(adapter, one)
    assert np.array_equal(migrate(adapter, one, mean=training).prompts, expected[:1])


def test_prompts_of_the_adapters_own_training() -> None:
    own = make_training(1)
    adapter = make_trained(own)
    part = PromptBank.from_arrays(["a", "b"], own.prompts[:2].copy(), SOURCE)
    assert np.array_equal(migrate(adapter, part, mean="adapter").prompts, migrate(adapter, own).prompts[:2])


@pytest.mark.parametrize(
    ("mean", "error", "words"),
    [
        ("bank", ConfigurationError, "is not a mean"),
        (object(), ConfigurationError, "cannot be object"),
        (np.zeros((1, 31)), MismatchError, r"must be \(1, 32\)"),
        (np.full((1, 32), np.nan), BankError, "NaN"),
        (make_training(1, OTHER), MismatchError, "hidden size"),
        (PromptBank.from_arrays(["a"], np.zeros((1, 1, 32)), SOURCE), BankError, "no statistics"),
    ],
)
def test_means_that_cannot_be_used(mean: object, error: type[PumaHubError], words: str) -> None:
    with pytest.raises(error, match=words):
        migrate(make_trained(make_training(1)), make_training(2), mean=mean)


def test_an_adapter_that_was_not_standardised_takes_prompts_as_they_are() -> None:
    torch.manual_seed(0)
    adapter = PumaAdapter(PumaConfig(sources=[SOURCE], target=TARGET, hidden_size=48)).eval()
    bank = make_training(2)
    assert np.array_equal(migrate(adapter, bank).prompts, plain(adapter, bank.prompts))
    assert np.array_equal(migrate(adapter, bank.select(["user-1"]))["user-1"], plain(adapter, bank.prompts)[1])


def test_distances_are_told_and_absurd_ones_refused(caplog: pytest.LogCaptureFixture) -> None:
    adapter = make_trained(make_training(1))
    prompts = make_training(2).prompts.copy()
    prompts[3] += 5 * (prompts[3] - prompts.mean(0))
    bank = PromptBank.from_arrays([f"user-{i}" for i in range(USERS)], prompts, SOURCE)
    migrate(adapter, bank)
    assert "1 of 40 prompts lie farther from their mean" in caplog.text and "user-3" not in caplog.text
    in_another_scale = PromptBank.from_arrays(bank.user_ids, make_training(2).prompts * 300, SOURCE)
    with pytest.raises(MismatchError, match=r"of 40 prompts lie up to .* spreads from the mean"):
        migrate(adapter, in_another_scale)
    with pytest.raises(MismatchError, match="the mean is not theirs"):
        migrate(adapter, bank, mean=bank.statistics.mean + 100)
    adapter.train()
    with pytest.raises(MismatchError, match="spreads from the mean"):
        map_prompts(adapter, in_another_scale.prompts, 16)
    assert adapter.training  # as it was, also after an error


def test_a_bank_without_anything_personal_is_told(
    make_lm: Callable[..., PersonalizedLM], caplog: pytest.LogCaptureFixture
) -> None:
    lm = make_lm("gemma3")
    alike = make_bank(6)
    alike = PromptBank.from_arrays(alike.user_ids, np.repeat(alike.prompts[:1], 6, axis=0), alike.model)
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    adapter = AdapterTrainer(lm, alike, make_interactions(users=6, rows=4), arguments).train()
    assert "same prompt for all of its 6 users" in caplog.text
    migrate(adapter, alike)
    with pytest.raises(MismatchError, match="the adapter's source bank has the same prompt for every user"):
        migrate(adapter, make_bank(6, seed=2), mean="adapter")


def test_arrays_in_the_pipeline_need_a_mean() -> None:
    own, apart = make_training(1), make_training(2)
    adapter = make_trained(own)
    pipe = pipeline("prompt-migration", model=adapter)
    expected = migrate(adapter, apart)
    with pytest.raises(ConfigurationError, match="does not record the training of its prompts"):
        pipe(apart["user-0"])
    for mean in (apart, apart.statistics.mean):
        assert np.array_equal(pipe(apart["user-0"], mean=mean), expected["user-0"])
        assert np.array_equal(pipe([apart["user-0"], apart["user-1"]], mean=mean)[1], expected["user-1"])
    assert np.array_equal(pipe(own.prompts, mean="adapter"), migrate(adapter, own).prompts)
    assert np.array_equal(pipe(apart).prompts, expected.prompts)
    assert np.array_equal(pipe(apart.dataset).prompts, expected.prompts)
    few = apart.select(["user-0", "user-1"])
    assert np.array_equal(pipe(few).prompts, expected.prompts[:2])
    with pytest.raises(BankError, match="give mean="):
        pipe(few.dataset)
    assert np.array_equal(pipe(few.dataset, mean=apart).prompts, expected.prompts[:2])
