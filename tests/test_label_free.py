"""Adapters that are trained without labels: from a catalogue, and from the distribution of a bank's prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from puma_hub import (
    AdapterTrainer,
    ClickTask,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaTrainingArguments,
)
from puma_hub.bank.distribution import PromptDistribution
from puma_hub.data.catalogue import catalogue_of, check_catalogue, load_catalogue
from puma_hub.errors import (
    BankError,
    CheckpointError,
    ConfigurationError,
    InteractionsError,
    PumaHubError,
    StorageError,
    UnknownUserError,
)
from puma_hub.training import draw_rows, with_source_predictions
from tests.conftest import make_bank, make_interactions

QUIET = PumaTrainingArguments(disable_tqdm=True, seed=3)
ITEMS = datasets.Dataset.from_dict(
    {"item_id": [f"i{n}" for n in range(12)], "item_text": [f"Toy Story ({1990 + n})" for n in range(12)]}
)


@pytest.fixture
def source(make_lm: Callable[..., PersonalizedLM]) -> tuple[PersonalizedLM, PromptBank]:
    lm = make_lm("llama")
    arguments = replace(QUIET, num_train_epochs=1, per_device_train_batch_size=32)
    return lm, PromptTrainer(lm, make_interactions(40, 6), arguments).train()


# Catalogues


def test_a_catalogue_holds_each_items_most_frequent_text_and_the_items_with_the_most_rows_first() -> None:
    texts = {"a": ["A", "A2", "A2"], "b": ["B", "B", "B", "B"], "c": ["C"]}
    rows = [(item, text) for item, shown in texts.items() for text in shown]
    data = {"item_id": [item for item, _ in rows], "item_text": [text for _, text in rows]}
    found = catalogue_of(datasets.Dataset.from_dict(data))
    assert list(zip(found["item_id"][:], found["item_text"][:])) == [("b", "B"), ("a", "A2"), ("c", "C")]
    assert catalogue_of(datasets.Dataset.from_dict(data), 2)["item_id"][:] == ["b", "a"]


@pytest.mark.parametrize("name", ["items.csv", "items.tsv", "items.jsonl", "items.parquet"])
def test_a_catalogue_is_read_from_any_file(tmp_path: Path, name: str) -> None:
    table = ITEMS.to_pandas()
    path = tmp_path / name
    if name.endswith("sv"):
        table.to_csv(path, index=False, sep="," if name == "items.csv" else "\t")
    elif name == "items.jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    assert load_catalogue(path).to_dict() == ITEMS.to_dict()


def test_a_catalogue_of_texts_alone_numbers_them_and_keeps_each_once(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('item_text\nToy Story\n"Heat, again"\nToy Story\n')
    found = load_catalogue(path)
    assert found["item_text"][:] == ["Toy Story", "Heat, again"] and found["item_id"][:] == ["item-0", "item-1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": ["Heat"]}, "needs the column item_text, found title"),
        ({"item_text": ["Heat", ""]}, "empty in 1 of 2"),
        ({"item_text": []}, "the catalogue is empty"),
    ],
)
def test_a_catalogue_that_cannot_be_used_is_refused(columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InteractionsError, match=message):
        check_catalogue(datasets.Dataset.from_dict(columns))


def test_a_missing_catalogue_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no catalogue at"):
        load_catalogue(tmp_path / "items.csv")


# Drawn rows


def test_drawn_rows_ask_all_users_and_all_items_equally_often_and_have_no_label() -> None:
    bank = make_bank(8)
    rows = draw_rows(bank, ITEMS, 100, seed=5)
    assert rows.column_names == ["user_id", "item_id", "item_text"]
    for name, size in (("user_id", 8), ("item_id", 12)):
        counts = Counter(rows[name][:])
        assert len(counts) == size and max(counts.values()) - min(counts.values()) <= 1
    text_of = dict(zip(ITEMS["item_id"][:], ITEMS["item_text"][:]))
    assert [text_of[item] for item in rows["item_id"][:]] == rows["item_text"][:]
    assert draw_rows(bank, ITEMS, 100, seed=5).to_dict() == rows.to_dict()
    assert draw_rows(bank, ITEMS, 100, seed=6).to_dict() != rows.to_dict()


def test_few_items_are_drawn_of_a_large_catalogue() -> None:
    found = set(draw_rows(make_bank(8), ITEMS, 50, items=5, seed=1)["item_id"][:])
    assert len(found) == 5 and found != set(draw_rows(make_bank(8), ITEMS, 50, items=5, seed=2)["item_id"][:])


def test_rows_are_drawn_from_the_given_users() -> None:
    assert set(draw_rows(make_bank(8), ITEMS, 30, users=["user-2", "user-5"])["user_id"][:]) == {"user-2", "user-5"}


def test_a_history_is_drawn_from_the_catalogue() -> None:
    rows = draw_rows(make_bank(8), ITEMS, 20, history=True)
    titles = [title for history in rows["history"][:] for title in history]
    assert len(titles) == 100 and set(titles) <= set(ITEMS["item_text"][:])


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rows must be a whole number >= 1, got 0"):
        draw_rows(make_bank(8), ITEMS, 0)
    with pytest.raises(UnknownUserError):
        draw_rows(make_bank(8), ITEMS, users=["nobody"])


# Training without labels


def test_the_teacher_predicts_the_same_with_and_without_labels(source: tuple[PersonalizedLM, PromptBank]) -> None:
    lm, bank = source
    rows = draw_rows(bank, ITEMS, 50)
    labelled = rows.add_column("label", [3.0] * len(rows))
    found, expected = (with_source_predictions(lm, bank, part, noise=0) for part in (rows, labelled))
    assert found["source_prediction"][:] == expected["source_prediction"][:]


def test_rows_that_say_the_same_have_noise_of_their_own(source: tuple[PersonalizedLM, PromptBank]) -> None:
    lm, bank = source
    one = draw_rows(bank, ITEMS, 3)
    rows = datasets.concatenate_datasets([one, one, one])
    found = with_source_predictions(lm, bank, rows, noise=2.0)
    prompts = np.array(found["source_prompt"][:], dtype=np.float32)
    alone = np.array(with_source_predictions(lm, bank, one, noise=2.0)["source_prompt"][:], dtype=np.float32)
    assert np.array_equal(prompts[:3], alone) and len(np.unique(prompts.reshape(9, -1), axis=0)) == 9


def test_labels_make_no_difference_to_an_adapter_that_learns_from_the_teacher_alone(
    make_lm: Callable[..., PersonalizedLM], source: tuple[PersonalizedLM, PromptBank]
) -> None:
    lm, bank = source
    rows = with_source_predictions(lm, bank, draw_rows(bank, ITEMS, 64), noise=1.0)
    labelled = rows.add_column("label", np.random.default_rng(0).integers(1, 6, len(rows)).astype(float))
    arguments = replace(QUIET, num_train_epochs=1, validation_share=0.0)
    adapters = [AdapterTrainer(make_lm("gemma3"), bank, part, arguments).train() for part in (rows, labelled)]
    for found, expected in zip(adapters[0].state_dict().values(), adapters[1].state_dict().values()):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("task", ["rating", "click"])
def test_rows_without_labels_are_validated_against_the_teacher(
    make_lm: Callable[..., PersonalizedLM], task: str
) -> None:
    own = {"task": ClickTask(), "template": "<item>: a click by<user>? "} if task == "click" else {}
    lm, target = make_lm("llama", **own), make_lm("gemma3", **own)
    rows = make_interactions(40, 6)
    if task == "click":
        rows = rows.map(lambda row: {"label": float(row["label"] > 3)})
    bank = PromptTrainer(lm, rows, replace(QUIET, num_train_epochs=1)).train()
    drawn = with_source_predictions(lm, bank, draw_rows(bank, ITEMS, 200), noise=0)
    trainer = AdapterTrainer(target, bank, drawn, replace(QUIET, num_train_epochs=1, validation_share=0.25))
    adapter = trainer.train()
    held = sorted(set(bank.user_ids) - set(trainer.users))
    kept = drawn.filter(lambda row: row["user_id"] in held)
    prompts = torch.from_numpy(adapter.migrate(bank).select(held).prompts.copy())
    with torch.no_grad():
        logits = target.logits(prompts[[held.index(user) for user in kept["user_id"][:]]], kept)
        told = torch.tensor(kept["source_prediction"][:], dtype=torch.float32)
        if task == "click":
            expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], told)
        else:
            squared = (adapter.head(logits) - told).square().mean()
            shares = torch.tensor(kept["source_probabilities"][:], dtype=torch.float32)
            expected = 0.8 * squared + 0.2 * -(shares * logits.log_softmax(-1)).sum(1).mean()
    assert trainer.evaluate() == {"eval_loss": pytest.approx(float(expected), rel=1e-4)}


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_rows_with_neither_labels_nor_a_teacher_are_refused(
    make_lm: Callable[..., PersonalizedLM], source: tuple[PersonalizedLM, PromptBank], weight: float
) -> None:
    lm, bank = source
    rows = draw_rows(bank, ITEMS, 20)
    if weight < 1:
        rows = with_source_predictions(lm, bank, rows)
    with pytest.raises(InteractionsError, match="no column 'label'"):
        AdapterTrainer(make_lm("gemma3"), bank, rows, replace(QUIET, teacher_weight=weight))


# The distribution of a bank's prompts


def correlated(users: int = 200, size: int = 12) -> PromptBank:
    generator = np.random.default_rng(0)
    own = generator.normal(size=(users, 4)) @ generator.normal(size=(4, 2 * size))
    own += 0.3 * generator.normal(size=own.shape)
    prompts = np.float32(1.0 + own.reshape(users, 2, size))
    return PromptBank.from_arrays([f"u{n}" for n in range(users)], prompts, ModelSpec("source", size))


def test_the_covariance_is_that_of_probabilistic_pca() -> None:
    bank = correlated()
    found = PromptDistribution.of(bank, 4)
    flat = bank.prompts.reshape(len(bank), -1)
    expected = PCA(4).fit(flat).get_covariance()
    covariance = found.factors.T @ found.factors + found.noise_variance * np.eye(flat.shape[1])
    np.testing.assert_allclose(covariance, expected, atol=1e-4)
    assert found.users == 200


def test_sampled_prompts_have_the_mean_and_the_covariance() -> None:
    bank = correlated()
    found = PromptDistribution.of(bank, 4)
    sampled = found.sample(20_000, seed=1)
    flat = sampled.prompts.reshape(len(sampled), -1)
    expected = found.factors.T @ found.factors + found.noise_variance * np.eye(flat.shape[1])
    np.testing.assert_allclose(flat.mean(0), bank.statistics.mean.ravel(), atol=0.1)
    np.testing.assert_allclose(np.cov(flat.T), expected, atol=0.05 * np.abs(expected).max())
    assert sampled.statistics == bank.statistics and sampled.provenance.made_by == "sampled"


def test_the_same_seed_samples_the_same_prompts() -> None:
    found = PromptDistribution.of(correlated(), 4)
    assert np.array_equal(found.sample(5, seed=1).prompts, found.sample(5, seed=1).prompts)
    assert not np.array_equal(found.sample(5, seed=1).prompts, found.sample(5, seed=2).prompts)


def test_a_saved_distribution_samples_the_same_and_names_no_user(
    tmp_path: Path, source: tuple[PersonalizedLM, PromptBank]
) -> None:
    _, bank = source
    found = PromptDistribution.of(bank, 8)
    found.save(tmp_path / "prompts.safetensors")
    again = PromptDistribution.load(tmp_path / "prompts.safetensors")
    drawn, expected = again.sample(7), found.sample(7)
    assert np.array_equal(drawn.prompts, expected.prompts) and drawn.provenance == expected.provenance
    for name, weight in bank.head.state_dict().items():
        assert torch.equal(drawn.head.state_dict()[name], weight)
    content = (tmp_path / "prompts.safetensors").read_bytes()
    assert not any(user.encode() in content for user in bank.user_ids)
    assert bank.provenance.trained_rows is not None and b"hashes" not in content


def test_an_adapter_trained_on_sampled_prompts_is_one_of_the_bank_they_stand_for(
    make_lm: Callable[..., PersonalizedLM], source: tuple[PersonalizedLM, PromptBank]
) -> None:
    lm, bank = source
    sampled = PromptDistribution.of(bank, 8).sample(64)
    rows = with_source_predictions(lm, sampled, draw_rows(sampled, ITEMS, 64))
    adapter = AdapterTrainer(make_lm("gemma3"), sampled, rows, replace(QUIET, validation_share=0.0)).train()
    migrated = adapter.migrate(bank)
    assert migrated.user_ids == bank.user_ids and migrated.provenance.details["own_source_bank"] is True


def test_a_distribution_of_few_users_is_refused() -> None:
    with pytest.raises(BankError, match="has 8 users; a distribution needs 30"):
        PromptDistribution.of(make_bank(8))


@pytest.mark.parametrize("rank", [0, True, 2.5])
def test_a_rank_that_is_none_is_refused(rank: object) -> None:
    with pytest.raises(ConfigurationError, match="rank must be a whole number"):
        PromptDistribution.of(correlated(), rank)  # type: ignore[arg-type]


def test_files_that_hold_no_distribution_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(StorageError, match="no distribution at"):
        PromptDistribution.load(tmp_path / "none.safetensors")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(StorageError, match="holds other tensors"):
        PromptDistribution.load(tmp_path / "other.safetensors")
    PromptDistribution.of(correlated(), 4).save(tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    for keep in (0, 5, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:keep])
        with pytest.raises(CheckpointError):
            PromptDistribution.load(tmp_path / "cut.safetensors")


def test_a_distribution_with_strange_facts_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    factors = {"factors": np.zeros((2, 4), np.float32)}
    for text in ("{}", "[]", "nonsense", '{"noise_variance": 1, "users": 3, "provenance": {}}'):
        save_file(factors, tmp_path / "strange.safetensors", metadata={"puma_hub_distribution": text})
        with pytest.raises(PumaHubError):
            PromptDistribution.load(tmp_path / "strange.safetensors")
