"""User and item biases as a known part of labels: prompts learn what they leave over, predictions have them back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaTrainingArguments,
    evaluate_bank,
    with_source_predictions,
)
from puma_hub.cli.main import main
from puma_hub.data import chronological_split, with_biases
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.evaluation import calibrate
from puma_hub.selection.losses import user_losses
from puma_hub.tasks import ClickTask, RatingTask
from puma_hub.training.teachers import best_teacher
from tests.conftest import make_interactions, make_model, make_tokenizer

QUIET = PumaTrainingArguments(num_train_epochs=1, per_device_train_batch_size=16, disable_tqdm=True)
OVER = RatingTask(offset="known")


def dense_biases(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """The same regression by numpy's least squares, with a row for each penalty."""
    users, items = sorted(set(train["user_id"][:])), sorted(set(train["item_id"][:]))

    def design(part: datasets.Dataset) -> np.ndarray:
        by_user = np.array([[user == name for name in users] for user in part["user_id"][:]], float)
        return np.hstack([by_user, [[item == name for name in items] for item in part["item_id"][:]]])

    labels, found = np.array(train["label"][:]), design(train)
    penalties = np.sqrt(5.0) * np.eye(found.shape[1])
    targets = np.concatenate([labels - labels.mean(), np.zeros(len(penalties))])
    return design(rows) @ np.linalg.lstsq(np.vstack([found, penalties]), targets, rcond=None)[0]


def test_biases_are_those_of_a_ridge_regression() -> None:
    splits = chronological_split(make_interactions())
    found = with_biases(splits)
    expected = dense_biases(splits["train"], splits["validation"])
    np.testing.assert_allclose(found["validation"]["bias"][:], expected, atol=1e-5)
    assert found["train"].column_names == [*splits["train"].column_names, "bias"]
    again = with_biases(found)
    assert again["train"]["bias"][:] == found["train"]["bias"][:]


def test_a_training_row_does_not_tell_its_own_label() -> None:
    splits = chronological_split(make_interactions())
    labels = np.array(splits["train"]["label"][:])
    before = with_biases(splits)["train"]["bias"][:]
    labels[5] = 5.0 if labels[5] < 3 else 1.0
    changed = splits["train"].remove_columns("label").add_column("label", labels.tolist())
    after = with_biases(datasets.DatasetDict({**splits, "train": changed}))["train"]["bias"][:]
    assert after[5] == before[5] and after[6] != before[6]


def test_few_rows_are_refused() -> None:
    with pytest.raises(InteractionsError, match="at least 10 training rows, got 6"):
        with_biases(chronological_split(make_interactions(users=2, rows=4)))


def shifted() -> tuple[datasets.DatasetDict, datasets.DatasetDict]:
    """Rows with labels and a known part of them, and the same rows with the rest as labels."""
    rows = make_interactions()
    labels = np.array(rows["label"][:])
    known = np.random.default_rng(1).integers(-1, 2, len(labels)).astype(float)
    known[(labels - known < 1) | (labels - known > 5)] = 0.0
    bare = rows.remove_columns("label")
    rest = bare.add_column("label", (labels - known).tolist())
    return chronological_split(rows.add_column("known", known.tolist())), chronological_split(rest)


def test_prompts_learn_the_rest_and_predictions_have_the_known_part_back(
    make_lm: Callable[..., PersonalizedLM],
) -> None:
    """Everything is as on labels without the known part, with the known part added to predictions."""
    rows, rest = shifted()
    over, plain = make_lm(task=OVER), make_lm()
    bank, expected = (
        PromptTrainer(over, rows["train"], QUIET).train(),
        PromptTrainer(plain, rest["train"], QUIET).train(),
    )
    np.testing.assert_array_equal(bank.prompts, expected.prompts)
    assert bank.provenance.task == OVER != expected.provenance.task
    report, bare = evaluate_bank(over, bank, rows), evaluate_bank(plain, expected, rest)
    assert report["metrics"] == pytest.approx(bare["metrics"], abs=1e-6)
    assert report["baselines"] != bare["baselines"]  # they predict the whole label

    taught = with_source_predictions(over, bank, rows["validation"], noise=0.0)
    bare_taught = with_source_predictions(plain, expected, rest["validation"], noise=0.0)
    assert taught["source_prediction"][:] == bare_taught["source_prediction"][:]
    perfect = np.array(taught["label"][:]) - np.array(taught["known"][:])
    whole, rest_of_it = (
        taught.remove_columns("source_prediction").add_column("source_prediction", values.tolist())
        for values in (np.array(taught["label"][:]), perfect)
    )
    assert best_teacher([whole, rest_of_it], OVER) == [0.0, 1.0]
    losses, bare_losses = user_losses(over, bank, rows["train"]), user_losses(plain, expected, rest["train"])
    assert losses == pytest.approx(bare_losses)
    head, other = (
        calibrate(lm, one, part["validation"])[0].head
        for lm, one, part in ((over, bank, rows), (plain, expected, rest))
    )
    for name, tensor in head.state_dict().items():
        np.testing.assert_allclose(tensor, other.state_dict()[name], atol=1e-5)

    target = make_lm("gemma3", 1, task=OVER)
    adapter = AdapterTrainer(target, bank, rows["train"], QUIET).train()
    migrated = adapter.migrate(bank)
    assert migrated.provenance.task == OVER and adapter.config.scored_task == OVER
    with pytest.raises(MismatchError, match="another task"):
        evaluate_bank(make_lm("gemma3", 1), migrated, rows)


def test_pipelines_add_the_known_part(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows, _ = shifted()
    lm = make_lm(task=OVER)
    bank = PromptTrainer(lm, rows["train"], QUIET).train()
    pipe = transformers.pipeline("personalized-scoring", model=lm, bank=bank)
    row = {"user_id": "user-3", "item_text": "Toy Story"}
    assert pipe({**row, "known": 0.75})["score"] == pytest.approx(pipe({**row, "known": 0})["score"] + 0.75)
    for bad in ({}, {"known": "much"}, {"known": float("nan")}):
        with pytest.raises(InteractionsError, match="the task adds 'known' to its predictions"):
            pipe({**row, **bad})


def test_what_cannot_be_added_is_refused(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows, _ = shifted()
    lm = make_lm(task=OVER)
    with pytest.raises(InteractionsError, match=r"adds the column 'known'.*with_biases"):
        PromptTrainer(lm, rows["train"].remove_columns("known"), QUIET)
    texts = rows["train"].remove_columns("known").add_column("known", ["x"] * len(rows["train"]))
    with pytest.raises(InteractionsError, match="must hold numbers"):
        PromptTrainer(lm, texts, QUIET)
    holes = rows["train"].remove_columns("known").add_column("known", [None, *[0.5] * (len(rows["train"]) - 1)])
    with pytest.raises(InteractionsError, match="is empty or infinite in 1 rows"):
        PromptTrainer(lm, holes, QUIET)
    with pytest.raises(ConfigurationError, match="offset must be the name of a column"):
        RatingTask(offset="")
    with pytest.raises(ConfigurationError, match="the task click has no offset"):
        ClickTask().with_offset("known")
    assert RatingTask.from_dict(OVER.to_dict()) == OVER
    assert RatingTask.from_dict({"values": [1, 2]}) == RatingTask((1, 2))


def test_biases_on_the_command_line(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    make_interactions(users=8, rows=8).to_csv(tmp_path / "rows.csv", index=False)
    given = ["--model", str(tmp_path / "llama"), "--interactions", str(tmp_path / "rows.csv"), "--biases"]
    assert main(["fit", *given, "--out", str(tmp_path / "out"), "--epochs", "1"]) == 0
    bank = PromptBank.from_pretrained(tmp_path / "out" / "bank")
    assert bank.provenance.task == replace(RatingTask(), offset="bias")
    report = tmp_path / "report.json"
    assert main(["evaluate", *given, "--bank", str(tmp_path / "out" / "bank"), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["metrics"]["rmse"] > 0
