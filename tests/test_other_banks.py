"""Adapters on banks that were trained apart: each bank is standardised by the mean of its own training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.linear_model import LinearRegression
from transformers import pipeline

from puma_hub import (
    AdapterTrainer,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    chain,
    migrate,
)
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.bank import BankStatistics
from puma_hub.bank.statistics import LEAST_USERS
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError, InteractionsError, MismatchError, PumaHubError
from puma_hub.evaluation import calibrate, evaluate_bank
from puma_hub.evaluation.calibrate import level_and_slope
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.training import with_source_predictions
from tests.conftest import make_interactions

SOURCE, OTHER, TARGET = ModelSpec("source", 32), ModelSpec("other", 16), ModelSpec("target", 24)
USERS = 40


def make_training(seed: int, spec: ModelSpec = SOURCE, users: int = USERS, spread: float = 0.1) -> PromptBank:
    """The bank of a training with a base of its own; a user's offset is the same in every training."""
    base = np.random.default_rng(seed).normal(size=(1, spec.hidden_size))
    offsets = np.random.default_rng(1000 + spec.hidden_size).normal(size=(users, 1, spec.hidden_size)) * spread
    offsets -= offsets.mean(0)
    return PromptBank.from_arrays([f"user-{user}" for user in range(users)], base + offsets, spec)


def make_trained(bank: PromptBank, *others: PromptBank, architecture: str = "seed") -> PumaAdapter:
    """An adapter standardised on banks, as a training leaves it."""
    torch.manual_seed(0)
    banks = [bank, *others]
    config = PumaConfig(sources=[b.model for b in banks], target=TARGET, hidden_size=48, architecture=architecture)
    adapter = PumaAdapter(config).eval()
    known = [b.statistics for b in banks]
    mean = np.concatenate([part.mean for part in known], axis=-1)
    adapter.standardize(torch.from_numpy(mean), [part.spread for part in known], 2.0)
    with torch.no_grad():
        adapter.base.normal_()
        adapter.output_mean.normal_()
    facts = tuple(SourceBank(part.base_id, part.spread, part.users) for part in known)
    adapter.config.trained_on = TrainedOn(facts, 2.0, 0.5, len(bank))
    return adapter


def plain(adapter: PumaAdapter, prompts: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return adapter(torch.from_numpy(prompts.copy())).target_prompts.numpy()


# Statistics


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


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["sources", "farthest", "target_spread", "target_users"]), json_values))
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


# Migration


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


# Where the mean is not known


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


# Pipelines


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


# Training


def make_teaching(make_lm: Callable[..., PersonalizedLM]) -> tuple[PersonalizedLM, datasets.Dataset]:
    return make_lm("gemma3", 1), make_interactions(USERS, 4)


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


# Calibration


def test_level_and_slope_are_those_of_a_regression_with_many_rows() -> None:
    generator = np.random.default_rng(0)
    predictions = generator.normal(3.5, 0.6, 20_000)
    labels = 0.7 + 0.8 * predictions + generator.normal(0, 0.5, 20_000)
    level, slope = level_and_slope(predictions, labels)
    plain_fit = LinearRegression().fit(predictions[:, None], labels)
    assert (level, slope) == pytest.approx((plain_fit.intercept_, plain_fit.coef_[0]), abs=0.01)
    # One row says next to nothing, and no rows could.
    few_level, few_slope = level_and_slope(predictions[:1], labels[:1])
    assert abs(few_level) < 0.2 and few_slope == 1.0


def test_calibrating_without_labels(make_lm: Callable[..., PersonalizedLM]) -> None:
    source, (target, rows) = make_lm("llama"), make_teaching(make_lm)
    quiet = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    before = PromptTrainer(source, rows, quiet).train()
    bank = AdapterTrainer(target, before, rows, quiet).train().migrate(before)
    taught = with_source_predictions(source, before, rows, noise=0)  # of rows that were trained on: labels do not count
    calibrated, found = calibrate(target, bank, taught)
    wrong = taught.remove_columns("label").add_column("label", [1.0] * len(taught))
    assert calibrate(target, bank, wrong)[1] == found and found.rows == len(rows)
    told = evaluate_bank(target, calibrated, rows, allow_training_rows=True)["metrics"]["rmse"]
    assert found.rmse_after < found.rmse_before and told != found.rmse_after
    held_out = HeldOut.build(target, calibrated, rows, allow_training_rows=True)
    lacking = held_out.own - np.asarray(taught["source_prediction"][:])
    assert found.rmse_after == pytest.approx(float(np.sqrt(np.mean(lacking**2))), rel=1e-4)


def test_calibrating_a_bank(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_teaching(make_lm)
    adapter = AdapterTrainer(
        lm, make_training(1), rows, PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    ).train()
    bank = migrate(adapter, make_training(2))
    lower = rows.map(lambda row: {"label": max(1.0, row["label"] - 1)})
    calibrated, found = calibrate(lm, bank, lower)
    assert found.rows == len(rows) and found.rmse_after < found.rmse_before
    assert np.array_equal(calibrated.prompts, bank.prompts)
    assert calibrated.provenance.details["calibrated"]["rows"] == found.rows
    before = evaluate_bank(lm, bank, lower)["metrics"]["rmse"]
    after = evaluate_bank(lm, calibrated, lower)["metrics"]["rmse"]
    assert (before, after) == pytest.approx((found.rmse_before, found.rmse_after), rel=1e-4)
    with pytest.raises(ConfigurationError, match="no rating head"):
        calibrate(lm, PromptBank(bank.dataset, bank.provenance), lower)
    with pytest.raises(InteractionsError, match="none of"):
        calibrate(lm, bank, rows.map(lambda row: {"user_id": "x" + row["user_id"]}))


def test_on_the_command_line(tmp_path: Path, saved_lm: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    adapter, apart = make_trained(make_training(1)), make_training(2)
    adapter.save_pretrained(tmp_path / "adapter")
    apart.save_pretrained(tmp_path / "apart")
    few = PromptBank.from_arrays(["a", "b"], apart.prompts[:2].copy(), SOURCE)
    few.save_pretrained(tmp_path / "few")
    start = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank"]
    assert main([*start, str(tmp_path / "apart"), "--out", str(tmp_path / "out")]) == 0
    assert "trained apart" in capsys.readouterr().out
    assert main([*start, str(tmp_path / "few"), "--out", str(tmp_path / "two")]) == 1
    assert "give mean=" in capsys.readouterr().err and not (tmp_path / "two").exists()
    whole = ["--mean", str(tmp_path / "apart"), "--out", str(tmp_path / "two")]
    assert main([*start, str(tmp_path / "few"), *whole]) == 0
    moved = PromptBank.from_pretrained(tmp_path / "two").prompts
    assert np.array_equal(moved, PromptBank.from_pretrained(tmp_path / "out").prompts[:2])
