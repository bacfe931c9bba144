"""Interactions: schema, files, splits and item statistics."""

from __future__ import annotations

import json
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from puma_hub import RatingTask
from puma_hub.data import chronological_split, load_interactions, most_recent, rows_by_user, sample_users
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.rows import codes
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from tests.conftest import make_interactions


@pytest.mark.parametrize("ending", ["csv", "parquet", "json", "jsonl"])
def test_files_of_every_kind(tmp_path: Path, interactions: datasets.Dataset, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    frame = interactions.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    splits = load_interactions(path, task=RatingTask())
    assert len(splits["train"]) == 8 * 9 and len(splits["validation"]) == 8 * 3
    assert splits["train"].features["label"] == datasets.Value("float64")


def test_numbers_as_ids_become_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": [7, 7], "item_id": [1, 2], "item_text": ["a", "b"], "label": [3, 4]})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert load_interactions(tmp_path / "rows.csv", held_out=0.5)["train"]["user_id"][:] == ["7"]


def test_csv_cells_are_what_they_say(tmp_path: Path) -> None:
    """Whatever the first ten thousand rows look like."""
    count = 10_050
    frame = pd.DataFrame(
        {
            "user_id": ["0007"] * count,
            "item_id": ["034545104"] * (count - 1) + ["034545109X"],
            "item_text": ["None", "NA"] + ["Heat, again"] * (count - 2),
            "label": ["4"] * (count - 1) + ["3.5"],
        }
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    splits = load_interactions(tmp_path / "rows.csv")
    assert set(splits["train"]["user_id"]) == {"0007"}
    assert splits["train"]["item_text"][:3] == ["None", "NA", "Heat, again"]
    last = splits["validation"][-1]
    assert last["item_id"] == "034545109X" and last["label"] == 3.5


@pytest.mark.parametrize(
    "times",
    [
        ["1000", "999", "1001"],
        ["10.5", "9.25", "11"],
        ["2020-01-02", "2019-12-31", "2020-01-03"],
        ["2020-01-02T03:04:05Z", "2020-01-02T01:04:05Z", "2020-01-02T23:00:00Z"],
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_times_in_text_are_ordered_as_times(tmp_path: Path, times: list[str], ending: str) -> None:
    frame = pd.DataFrame({"user_id": "u", "item_id": "i", "item_text": ["b", "a", "c"], "label": 3.0})
    frame["timestamp"] = times
    path = tmp_path / f"rows.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    splits = load_interactions(path)
    assert list(splits["train"]["item_text"]) == ["a", "b"] and list(splits["validation"]["item_text"]) == ["c"]


def test_split_is_the_last_in_time_of_each_user(interactions: datasets.Dataset) -> None:
    splits = chronological_split(interactions.shuffle(seed=3))
    for user, rows in rows_by_user(splits["validation"]).items():
        held = [splits["validation"]["timestamp"][int(i)] for i in rows]
        kept = [t for t, u in zip(splits["train"]["timestamp"], splits["train"]["user_id"]) if u == user]
        assert min(held) > max(kept)
        assert len(held) == 3 and len(kept) == 9


def test_one_row_users_stay_in_train() -> None:
    rows = make_interactions(users=3, rows=1)
    splits = chronological_split(rows)
    assert len(splits["train"]) == 3 and len(splits["validation"]) == 0


def test_most_recent_and_sample(interactions: datasets.Dataset) -> None:
    assert len(most_recent(interactions.select([]), 4)) == 0
    recent = most_recent(interactions, 4)
    assert len(recent) == 32 and min(recent["timestamp"]) == 8
    some = sample_users(interactions, 3, seed=1)
    assert len(set(some["user_id"])) == 3 and len(some) == 36
    assert some["user_id"][:] == sample_users(interactions, 3, seed=1)["user_id"][:]
    assert len(sample_users(interactions, 99, seed=1)) == len(interactions)


def test_item_statistics_use_training_labels_alone() -> None:
    train = datasets.Dataset.from_dict(
        {"user_id": ["a", "b", "a"], "item_id": ["x", "x", "y"], "item_text": ["X", "X", "Y"], "label": [5.0, 5.0, 2.0]}
    )
    held = datasets.Dataset.from_dict(
        {"user_id": ["a", "b"], "item_id": ["x", "z"], "item_text": ["X", "Z"], "label": [1.0, 1.0]}
    )
    splits = with_item_statistics(datasets.DatasetDict({"train": train, "validation": held}))
    assert splits["validation"]["item_text"][:] == [
        "X\nRating by all users: 4.2",
        "Z\nRating by all users: 4.0",
    ]  # 30 / 7
    assert splits["train"].column_names == train.column_names


def test_item_statistics_of_a_training_row_leave_its_own_label_out() -> None:
    labels = [1.0, 5.0, 5.0, 5.0, 5.0, 3.0, 3.0]
    items = ["x"] * 5 + ["y"] * 2
    rows = {"user_id": list("abcdeab"), "item_id": items, "item_text": items, "label": labels}
    train = datasets.Dataset.from_dict(rows)
    texts = with_item_statistics(datasets.DatasetDict({"train": train, "validation": train}))["train"]["item_text"][:]
    overall = sum(labels) / 7
    for number, text in enumerate(texts):
        others = [label for k, label in enumerate(labels) if items[k] == items[number] and k != number]
        mean = (sum(others) + 5 * overall) / (len(others) + 5)
        assert abs(float(text.rsplit(" ", 1)[1]) - mean) <= 0.1 + 1e-9  # shown to the nearest fifth
    assert texts[0] > texts[1]  # the lowest label is not in its own row's mean


def test_folder_with_splits(tmp_path: Path, interactions: datasets.Dataset) -> None:
    interactions.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InteractionsError, match="needs the splits"):
        load_interactions(tmp_path)
    interactions.select(range(5)).to_json(tmp_path / "validation.jsonl")
    splits = load_interactions(tmp_path)
    assert len(splits["train"]) == 96 and len(splits["validation"]) == 5
    splits.save_to_disk(tmp_path / "disk")
    assert len(load_interactions(tmp_path / "disk")["validation"]) == 5
    with pytest.raises(ConfigurationError, match="split already"):
        load_interactions(tmp_path, rows_per_user=2)
    held_out = interactions.select(range(0, len(interactions), 5))
    held_out.to_json(tmp_path / "validation.jsonl")
    drawn = load_interactions(tmp_path, users=2)
    assert len(set(drawn["train"]["user_id"])) == 2
    for name, rows in (("train", interactions), ("validation", held_out)):
        users = set(drawn["train"]["user_id"])
        expected = [item for user, item in zip(rows["user_id"][:], rows["item_id"][:]) if user in users]
        assert drawn[name]["item_id"][:] == expected


GOOD = {"user_id": ["a", "b"], "item_id": ["x", "y"], "item_text": ["X", "Y"], "label": [1.0, 5.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": None}, "user_id missing"),
        ({"label": None}, "label missing"),
        ({"label": ["good", "bad"]}, "'label' must hold numbers: 2 of 2"),
        ({"label": [1.0, 9.0]}, "outside the task"),
        ({"label": [1.0, float("nan")]}, "NaN or infinite|empty"),
        ({"user_id": ["a", ""]}, "'user_id' is empty in 1 of 2"),
        ({"item_text": ["X", None]}, "'item_text' is empty in 1 of 2"),
        ({"item_text": [["X"], ["Y"]]}, "nested"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = {name: values for name, values in {**GOOD, **change}.items() if values is not None}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InteractionsError, match=message):
        load_interactions(tmp_path / "rows.parquet", task=RatingTask())


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no interactions at"):
        load_interactions(tmp_path / "absent.csv")
    (tmp_path / "rows.xlsx").write_text("a")
    with pytest.raises(StorageError, match="unknown ending"):
        load_interactions(tmp_path / "rows.xlsx")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InteractionsError, match="cannot read"):
        load_interactions(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD)[:-5])
    with pytest.raises(InteractionsError, match="cannot read"):
        load_interactions(tmp_path / "rows.jsonl")
    (tmp_path / "empty.csv").write_text("user_id,item_id,item_text,label\n")
    with pytest.raises(InteractionsError, match="a header and no rows"):
        load_interactions(tmp_path / "empty.csv")


@pytest.mark.parametrize("options", [{"held_out": 0.0}, {"held_out": 1.0}, {"users": 0}, {"rows_per_user": 0}])
def test_bad_options(tmp_path: Path, interactions: datasets.Dataset, options: dict[str, float]) -> None:
    interactions.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ConfigurationError):
        load_interactions(tmp_path / "rows.parquet", **options)  # type: ignore[arg-type]


def test_movielens_that_was_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="puma-hub fetch movielens-100k"):
        load_interactions("movielens-100k", folder=tmp_path)


def test_split_and_most_recent_against_pandas() -> None:
    generator = np.random.default_rng(5)
    count = 500
    frame = pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in generator.zipf(1.5, count) % 40],
            "item_id": [str(n) for n in range(count)],
            "item_text": "t",
            "label": 1.0,
            "timestamp": generator.integers(0, 50, count),  # with ties, which keep their order
        }
    )
    rows = datasets.Dataset.from_pandas(frame)
    ordered = frame.sort_values(["user_id", "timestamp"], kind="stable")
    place = ordered.groupby("user_id").cumcount()
    size = ordered.groupby("user_id").item_id.transform("size")
    splits = chronological_split(rows, 0.3)
    kept = place < np.maximum(1, np.floor(size * 0.7 + 1e-9))
    assert splits["train"]["item_id"][:] == ordered[kept].item_id.tolist()
    assert splits["validation"]["item_id"][:] == ordered[~kept].item_id.tolist()
    assert most_recent(rows, 3)["item_id"][:] == ordered.groupby("user_id").tail(3).item_id.tolist()
    groups = {user: list(numbers) for user, numbers in frame.groupby("user_id").indices.items()}
    assert {user: numbers.tolist() for user, numbers in rows_by_user(rows).items()} == groups


def test_distinct_texts_of_many_chunks() -> None:
    """As a file of datasets has them; each chunk must not bring the values of all."""
    names = [f"user-{number}" for number in range(60_000)]
    values = pa.chunked_array([names[start : start + 20] for start in range(0, 60_000, 20)])
    started = time.process_time()
    numbers, distinct = codes(values)
    assert time.process_time() - started < 1.0  # 0.1 s, and several where chunks are unified
    assert distinct == names and np.array_equal(numbers, np.arange(60_000))
