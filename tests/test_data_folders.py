"""Folders: which files make up the splits."""

from __future__ import annotations

import logging
from pathlib import Path

import datasets
import pytest

from puma_hub.data import load_interactions
from puma_hub.errors import InteractionsError
from tests.conftest import make_interactions

HEADER = "user_id,item_id,item_text,label\n"


def put(folder: Path, *names: str) -> None:
    """A file of one row for each name, which stands in its text."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if ".json" in name:
            path.write_text(f'{{"user_id": "u", "item_id": "i", "item_text": "{name}", "label": 4}}\n')
        elif ".parquet" in name:
            rows = {"user_id": ["u"], "item_id": ["i"], "item_text": [name], "label": [4]}
            datasets.Dataset.from_dict(rows).to_parquet(path)
        else:
            row = f"{HEADER}u,i,{name},4\n"
            path.write_text(row.replace(",", "\t") if name.endswith("tsv") else row)


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (("train.csv", "validation.jsonl"), ["train.csv"], ["validation.jsonl"]),
        (("TRAIN.CSV", "valid.tsv"), ["TRAIN.CSV"], ["valid.tsv"]),
        (("train.csv", "dev.csv"), ["train.csv"], ["dev.csv"]),
        (("training.csv", "val.csv"), ["training.csv"], ["val.csv"]),
        (("train.csv", "test.csv"), ["train.csv"], ["test.csv"]),
        (("train.csv", "dev.csv", "test.csv"), ["train.csv"], ["dev.csv"]),
        (("train.csv", "dev.csv", "README.md", "items.csv", ".DS_Store"), ["train.csv"], ["dev.csv"]),
        (
            ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"),
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
            ["validation-00000-of-00001.parquet"],
        ),
        (
            ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", "data/test-00000-of-00001.parquet", "README.md"),
            ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
            ["data/test-00000-of-00001.parquet"],
        ),
        (("train_1.csv", "train_2.csv", "dev.csv"), ["train_1.csv", "train_2.csv"], ["dev.csv"]),
        (
            ("train/part-00000-x.csv", "train/part-00001-x.csv", "train/_SUCCESS", "test/part-00000-x.csv"),
            ["train/part-00000-x.csv", "train/part-00001-x.csv"],
            ["test/part-00000-x.csv"],
        ),
    ],
)
def test_usual_names(tmp_path: Path, names: tuple[str, ...], train: list[str], validation: list[str]) -> None:
    put(tmp_path, *names)
    splits = load_interactions(tmp_path)
    assert splits["train"]["item_text"][:] == train and splits["validation"]["item_text"][:] == validation


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train.csv",), "needs the splits train and validation"),
        (("ratings.csv", "movies.csv"), "found movies.csv, ratings.csv"),
        ((), "found none"),
        (("train.csv", "valid.csv", "dev.csv"), "validation under the names dev, valid"),
        (("train.csv", "train.jsonl", "dev.csv"), "several formats: train.csv, train.jsonl"),
        (("train.csv", "train.tsv", "dev.csv"), "exists more than once"),
        (("train-00000-of-00003.csv", "train-00002-of-00003.csv", "dev.csv"), "1 of the 3 files.*number 1"),
        (("train-00000-of-00001.csv", "train-00000-of-00002.csv", "dev.csv"), "several sets"),
        (("train-00000-of-00001.csv", "train.csv", "dev.csv"), "several sets"),
    ],
)
def test_folders_that_are_told(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(InteractionsError, match=message):
        load_interactions(tmp_path)


def test_a_table_in_parts(tmp_path: Path) -> None:
    put(tmp_path, "part-00000-c000.csv", "part-00001-c000.csv", "_SUCCESS", ".part-00000-c000.csv.crc")
    splits = load_interactions(tmp_path, held_out=0.5)
    assert splits["train"]["item_text"][:] == ["part-00000-c000.csv"]
    assert splits["validation"]["item_text"][:] == ["part-00001-c000.csv"]


def test_a_test_split_in_the_place_of_validation_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "train.csv", "test.csv")
    with caplog.at_level(logging.INFO):
        load_interactions(tmp_path)
    assert "the rows of test are held out" in caplog.text


def test_damaged_folders_of_save_to_disk(tmp_path: Path) -> None:
    make_interactions(users=2, rows=4).save_to_disk(tmp_path / "disk")
    assert len(load_interactions(tmp_path / "disk")["train"]) == 6
    (tmp_path / "disk" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InteractionsError, match="as a saved dataset"):
        load_interactions(tmp_path / "disk")
