"""Clicks made of rows that say what users took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from puma_hub import PersonalizedLM, PromptTrainer, PumaTrainingArguments, evaluate_bank
from puma_hub.cli.main import main
from puma_hub.data import chronological_split, load_interactions, with_negatives
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.tasks import ClickTask
from tests.conftest import make_interactions, make_model, make_tokenizer


def taken(users: int = 6, rows: int = 8, items: int = 40) -> datasets.Dataset:
    """What users took, each item once, in the order of time; item 0 most often."""
    generator = np.random.default_rng(0)
    data: dict[str, list[object]] = {name: [] for name in ("user_id", "item_id", "item_text", "label", "timestamp")}
    for user in range(users):
        others = generator.choice(np.arange(1, items), rows - 1, replace=False)
        for time, item in enumerate(generator.permutation([0, *others])):
            data["user_id"].append(f"user-{user}")
            data["item_id"].append(f"item-{item}")
            data["item_text"].append(f"Title {item}")
            data["label"].append(5.0)
            data["timestamp"].append(100 * time + user)
    return datasets.Dataset.from_dict(data)


def test_each_click_is_followed_by_items_that_the_user_never_took() -> None:
    rows = taken()
    splits = chronological_split(rows)
    found = with_negatives(splits, negatives=3, seed=1)
    owned = {(user, item) for user, item in zip(rows["user_id"], rows["item_id"])}
    for name, part in found.items():
        assert part["label"][:] == [1.0, 0.0, 0.0, 0.0] * len(splits[name])
        assert part["user_id"][::4] == splits[name]["user_id"][:]
        assert part["item_id"][::4] == splits[name]["item_id"][:]
        for row in part:
            assert row["label"] == float((row["user_id"], row["item_id"]) in owned)
            assert row["item_text"] == row["item_id"].replace("item-", "Title ")
        assert part["timestamp"][1::4] == part["timestamp"][::4]
    again = with_negatives(splits, negatives=3, seed=1)
    assert again["train"].to_dict() == found["train"].to_dict()
    assert with_negatives(splits, negatives=3, seed=2)["train"]["item_id"] != found["train"]["item_id"]


def test_histories_are_what_the_user_took_before_in_any_split() -> None:
    rows = taken()
    found = with_negatives(chronological_split(rows), negatives=2)
    for part in found.values():
        for row in part:
            before = [
                (one["timestamp"], one["item_text"])
                for one in rows
                if one["user_id"] == row["user_id"] and one["timestamp"] < row["timestamp"]
            ]
            assert row["history"] == [title for _, title in sorted(before)[-5:]]


def test_items_are_drawn_by_popularity_or_alike() -> None:
    # The first user took items 0 to 9, again and again; twenty others item 20, and one of them items 21 to 30.
    first = {"user_id": ["a"] * 500, "item_id": [f"{n}" for n in range(10)] * 50}
    second = {"user_id": [f"b{n}" for n in range(20)] + ["b0"] * 10, "item_id": ["20"] * 20}
    second["item_id"] += [f"{n}" for n in range(21, 31)]
    data = {name: first[name] + second[name] for name in first}
    data |= {"item_text": data["item_id"], "label": [1.0] * 530}
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(data)})
    shares = {}
    for by_popularity in (True, False):
        # Rows that are known beside those of the splits count once.
        rows = with_negatives(splits, negatives=4, by_popularity=by_popularity, known=splits["train"])["train"]
        drawn = Counter(row["item_id"] for row in rows if row["user_id"] == "a" and not row["label"])
        assert set(drawn) == {"20", *map(str, range(21, 31))}
        shares[by_popularity] = drawn["20"] / drawn.total()
    assert shares[True] == pytest.approx(2 / 3, abs=0.05) and shares[False] == pytest.approx(1 / 11, abs=0.03)


def test_older_rows_are_known_too() -> None:
    rows = taken(items=12)  # of 12 items each user took 8
    recent = datasets.DatasetDict({"train": rows.filter(lambda row: row["timestamp"] >= 500)})
    found = with_negatives(recent, negatives=2, known=rows)["train"]
    owned = {(user, item) for user, item in zip(rows["user_id"], rows["item_id"])}
    drawn = {(row["user_id"], row["item_id"]) for row in found if not row["label"]}
    assert not drawn & owned
    without = with_negatives(recent, negatives=2)["train"]
    assert {(row["user_id"], row["item_id"]) for row in without if not row["label"]} & owned


def test_what_cannot_be_drawn_is_refused() -> None:
    splits = chronological_split(taken(items=8))
    with pytest.raises(InteractionsError, match=r"6 users took all of the 8 items"):
        with_negatives(splits)
    for bad in (0, True, 1.5):
        with pytest.raises(ConfigurationError, match="negatives must be a whole number"):
            with_negatives(chronological_split(taken()), negatives=bad)  # type: ignore[arg-type]


def test_clicks_are_learnt_and_scored(make_lm: Callable[..., PersonalizedLM]) -> None:
    """From the file to user AUC; the labels of the file are ratings, which clicks do not have."""
    lm = make_lm(task=ClickTask(), template="Movie: <item>\nBefore: <history>\n<user> saw it. Yes or No:")
    rows = with_negatives(chronological_split(taken()), negatives=2)
    bank = PromptTrainer(lm, rows["train"], PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)).train()
    report = evaluate_bank(lm, bank, rows)
    assert 0.0 <= report["metrics"]["user_auc"] <= 1.0
    assert report["counts"]["users_with_both_classes"] == 6


def test_negatives_on_the_command_line(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    taken().to_csv(tmp_path / "rows.csv", index=False)
    loaded = load_interactions(tmp_path / "rows.csv", rows_per_user=4, negatives=2, task=ClickTask())
    assert len(loaded["train"]) == 3 * 6 * 3 and set(loaded["train"]["label"]) == {0.0, 1.0}
    given = ["--model", str(tmp_path / "llama"), "--interactions", str(tmp_path / "rows.csv"), "--task", "click"]
    given += ["--negatives", "2"]
    assert main(["fit", *given, "--out", str(tmp_path / "out"), "--epochs", "1"]) == 0
    report = tmp_path / "report.json"
    assert main(["evaluate", *given, "--bank", str(tmp_path / "out" / "bank"), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["counts"]["users_with_both_classes"] == 6
    make_interactions(users=4, rows=6).to_csv(tmp_path / "plain.csv", index=False)
    assert main(["fit", *given[:2], "--interactions", str(tmp_path / "plain.csv"), *given[4:6], "--out", "x"]) == 1
