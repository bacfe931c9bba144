"""What a training's prompts share, and what an adapter keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from puma_hub import (
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaTrainingArguments,
    migrate,
)
from puma_hub.adapter.trained_on import TrainedOn
from puma_hub.bank import BankStatistics
from puma_hub.bank.statistics import LEAST_USERS
from puma_hub.errors import BankError, ConfigurationError
from tests.conftest import make_interactions
from tests.trainings import SOURCE, USERS, make_trained, make_training


def test_statistics_are_those_of_numpy_and_travel(tmp_path: Path) -> None:
    bank = make_training(1)
    known = bank.statistics
    assert known is not None and known.users == USERS
    assert np.allclose(known.mean, bank.prompts.mean(0), atol=1e-6)
    assert known.spread == pytest.approx(float((bank.prompts - bank.prompts.mean(0)).std()), rel=1e-5)
    few = bank.select(["user-3", "user-1"])
    assert few.statistics == known and bank.remove(["user-0"]).statistics == known
    few.save_pretrained(tmp_path / "bank")
    again = PromptBank.from_pretrained(tmp_path / "bank").statistics
    assert again == known and again.mean.tobytes() == known.mean.tobytes()
    assert make_training(2).statistics != known
    single = PromptBank.from_arrays(["one"], bank.prompts[:1], SOURCE)
    assert single.statistics is None


@pytest.mark.parametrize(("users", "of_base"), [(8, True), (LEAST_USERS, False)])
def test_a_training_records_its_statistics(
    make_lm: Callable[..., PersonalizedLM], tmp_path: Path, users: int, of_base: bool
) -> None:
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True, output_dir=str(tmp_path))
    lm = make_lm()
    bank = PromptTrainer(lm, make_interactions(users, 4), arguments).train()
    known = bank.statistics
    assert known is not None and known.users == users and known.is_base is of_base and known.is_reliable
    base = load_file(tmp_path / "training_state.safetensors")["best.base"] * np.float32(lm.embedding_rms)
    mean = bank.prompts.mean(0)
    assert np.allclose(known.mean, base if of_base else mean, atol=1e-6)
    assert known.spread == pytest.approx(float(np.sqrt(np.square(bank.prompts - known.mean).mean())), rel=1e-5)
    # Few users, but their training's base is known: nothing more is needed to migrate them.
    if of_base:
        torch.manual_seed(0)
        adapter = make_trained(make_training(1, bank.model))
        assert len(migrate(adapter, bank.select(["user-1"]))) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["mean", "shape", "spread", "users"]), json_values), st.booleans())
def test_statistics_from_any_json(data: dict[str, object], start_right: bool) -> None:
    right = make_training(1).statistics.to_dict() if start_right else {}
    with suppress(BankError):  # and no other error
        BankStatistics.from_dict({**right, **data})


TRAINED_ON = ["sources", "farthest", "target_spread", "target_users", "mean_answers"]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(TRAINED_ON), json_values))
def test_trained_on_from_any_json(data: dict[str, object]) -> None:
    right = {"sources": [{"base_id": "a", "spread": 1.0, "users": 3}], "farthest": 1, "target_spread": 1}
    with suppress(ConfigurationError):  # and no other error
        TrainedOn.of({**right, "target_users": 3, **data})


def test_the_adapter_keeps_what_it_was_trained_on(tmp_path: Path) -> None:
    adapter = make_trained(make_training(1))
    adapter.save_pretrained(tmp_path)
    loaded = PumaAdapter.from_pretrained(tmp_path)
    assert loaded.config.trained_on == adapter.config.trained_on
    assert torch.equal(loaded.output_mean, adapter.output_mean)
    assert json.loads((tmp_path / "config.json").read_text())["trained_on"]["sources"][0]["users"] == USERS
