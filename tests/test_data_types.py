"""Columns of every Arrow type, datasets in every format, timestamps and histories."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puma_hub import PersonalizedLM, PromptTemplate, RatingTask
from puma_hub.data import check_interactions, chronological_split, load_interactions, of_users, rows_by_user
from puma_hub.data import rows as rows_module
from puma_hub.data.rows import column, take_rows
from puma_hub.errors import InteractionsError
from tests.conftest import make_interactions

GOOD: dict[str, Any] = {"user_id": ["a", "b"], "item_id": ["x", "y"], "item_text": ["X", "Y"], "label": [1.0, 5.0]}


def checked(**change: Any) -> datasets.Dataset:
    return check_interactions(datasets.Dataset(pa.table({**GOOD, **change})))


def from_parquet(path: Path, **change: Any) -> datasets.Dataset:
    pq.write_table(pa.table({**GOOD, **change}), path / "rows.parquet")
    splits = load_interactions(path / "rows.parquet")
    return datasets.concatenate_datasets([splits["train"], splits["validation"]])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([2**53 + 1, -(2**63)], pa.int64()), ["9007199254740993", "-9223372036854775808"]),
        (pa.array([2**64 - 3, 2**64 - 2], pa.uint64()), ["18446744073709551613", "18446744073709551614"]),
        (pa.array([Decimal(7), Decimal(2**64)], pa.decimal128(30, 0)), ["7", "18446744073709551616"]),
        (pa.array([Decimal(7), Decimal(0)], pa.decimal128(38, 10)), ["7", "0"]),
        (pa.array(["0007", "7"], pa.large_string()), ["0007", "7"]),
        (pa.array(["0007", "7"], pa.string_view()), ["0007", "7"]),
        (pa.array(["é", "7"]).dictionary_encode(), ["é", "7"]),
        (pa.array(["é".encode(), b"7"], pa.binary()), ["é", "7"]),
        (pa.array([7.0, 8.0]), ["7", "8"]),
        (pa.array([7.0, -0.0], pa.float32()), ["7", "0"]),
    ],
)
def test_ids_of_every_type(tmp_path: Path, ids: pa.Array, expected: list[str]) -> None:
    for name in ("user_id", "item_id", "item_text"):
        if not pa.types.is_string_view(ids.type):  # datasets itself has no such feature
            assert checked(**{name: ids})[name][:] == expected
        found = from_parquet(tmp_path, **{name: ids})
        assert sorted(found[name]) == sorted(expected)
        assert found.features[name] == datasets.Value("string")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([7.0, None]), "empty in 1 of 2"),
        (pa.array([7.0, float("nan")]), "empty in 1 of 2"),
        (pa.array([7.0, 7.5]), "holds 1 floats that are not exact whole numbers, the first in row 2"),
        (pa.array([7.0, 2.0**53]), "the first in row 2"),
        (pa.array([Decimal(7), Decimal("7.5")], pa.decimal128(38, 10)), "1 decimals that are not whole numbers, the"),
        (pa.array([True, False]), "found values of type bool"),
        (pa.array([{"a": 1}, {"a": 2}]), "found nested values"),
        (pa.array([b"\xff", b"a"]), "not text in UTF-8"),
        (pa.nulls(2), "empty in 2 of 2"),
    ],
)
def test_ids_that_are_none(ids: pa.Array, message: str) -> None:
    with pytest.raises(InteractionsError, match=message):
        checked(user_id=ids)


def test_titles_that_are_numbers() -> None:
    assert checked(item_text=pa.array([1984.0, 7.5]))["item_text"][:] == ["1984", "7.5"]
    assert checked(item_text=pa.array([dt.date(2001, 9, 11)] * 2))["item_text"][0] == "2001-09-11"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array([Decimal("4.5"), Decimal("3.0")]), [4.5, 3.0]),
        (pa.array(["4.5", " 3"]), [4.5, 3.0]),
        (pa.array(["4", "3"]).dictionary_encode(), [4.0, 3.0]),
        (pa.array([4, 3], pa.uint8()), [4.0, 3.0]),
        (pa.array([4, 3], pa.float16()), [4.0, 3.0]),
    ],
)
def test_labels_of_every_type(labels: pa.Array, expected: list[float]) -> None:
    if labels.type == pa.float16():
        labels = pa.array(np.array([4, 3], np.float16))
    assert checked(label=labels)["label"][:] == expected


def test_class_labels() -> None:
    rows = datasets.Dataset.from_dict({**GOOD, "label": [0, 1]})
    stars = rows.cast_column("label", datasets.ClassLabel(names=["4", "5"]))
    assert check_interactions(stars)["label"][:] == [4.0, 5.0]
    words = rows.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    with pytest.raises(InteractionsError, match="ClassLabel with the names neg, pos"):
        check_interactions(words)
    named = datasets.Dataset.from_dict({**GOOD, "user_id": [0, 1]})
    named = named.cast_column("user_id", datasets.ClassLabel(names=["ann", "bob"]))
    assert check_interactions(named)["user_id"][:] == ["ann", "bob"]


def test_labels_outside_the_task_are_counted() -> None:
    rows = datasets.Dataset.from_dict({**GOOD, "label": [0.5, 5.0]})
    with pytest.raises(InteractionsError, match=r"1 of 2 labels are outside.*: 0\.5 \(1 row\)"):
        check_interactions(rows, RatingTask())


# Timestamps


@pytest.mark.parametrize(
    "times",
    [
        pa.array([3, 1, 2]),
        pa.array([3, 1, 2], pa.uint64()),
        pa.array([0.3, 0.1, 0.2]),
        pa.array([3 * 10**18, 10**18, 2 * 10**18], pa.timestamp("ns")),
        pa.array([3, 1, 2], pa.timestamp("ms", "Europe/Paris")),
        pa.array([3, 1, 2], pa.date32()),
        pa.array([Decimal("0.3"), Decimal("0.1"), Decimal("0.2")]),
        pa.array(["1e9", "0.5e9", "0.7e9"]),
        pa.array(["2020-01-01T02:00:00Z", "2020-01-01T02:00:00+02:00", "2020-01-01 01:00:00Z"]),
        pa.array(["2020-01-03", "2020-01-01 10:00", "2020-01-01 10:00:00.5"]),
        pa.array(["2020-01-01T00:00:00.123456789", "2020-01-01T00:00:00.123456787", "2020-01-01T00:00:00.123456788"]),
    ],
)
def test_timestamps_of_every_type_are_ordered(times: pa.Array) -> None:
    data = {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "item_text": ["c", "a", "b"], "label": [1.0] * 3}
    rows = check_interactions(datasets.Dataset(pa.table({**data, "timestamp": times})))
    splits = chronological_split(rows, 0.3)
    assert splits["train"]["item_text"][:] == ["a", "b"] and splits["validation"]["item_text"][:] == ["c"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            ["2020-01-01", "yesterday", "2020-01-02"],
            "'yesterday' in row 2 .1 of 3 rows hold such text, the others are times",
        ),
        (["100", "101", "2020-01-02"], "'100' in row 1 .2 of 3 rows .* the others are times"),
        (["2020-01-01", "2020-02-30", "2020-01-02"], "'2020-02-30' in row 2 is not a date of the calendar"),
        (["09 13, 2009", "01 02, 2010", "x"], "'09 13, 2009' in row 1.*pandas.to_datetime"),
        (["2020-01-01T00:00Z", "2020-01-01T00:00", "2020-01-02T00:00Z"], "the first without one is row 2"),
        (["1", "", "3"], "empty in 1 of 3"),
        ([1.0, float("nan"), 2.0], "empty in 1 of 3"),
        ([1.0, float("inf"), 2.0], "infinite in 1 of 3 rows, the first in row 2"),
        ([1_600_000_000, 1_600_000_000_000, 1_600_000_001], "mixes units of time: 2 rows in seconds, 1 rows in milli"),
        ([True, False, True], "type bool"),
        (["99999999999999999999", "1", "2"], "beyond 64 bits"),
    ],
)
def test_timestamps_that_are_told(times: list[Any], message: str) -> None:
    data = {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "item_text": ["c", "a", "b"], "label": [1.0] * 3}
    with pytest.raises(InteractionsError, match=message) as caught:
        check_interactions(datasets.Dataset(pa.table({**data, "timestamp": pa.array(times)})))
    assert "\n" not in str(caught.value)


# Formats of datasets


def _formatted(rows: datasets.Dataset) -> list[datasets.Dataset]:
    formats = ["pandas", "numpy", "arrow", "torch"]
    return [rows.with_format(name) for name in formats] + [
        rows.with_transform(lambda batch: {"nothing": [0] * len(next(iter(batch.values())))}),
        rows.with_format("numpy", columns=["label"]),
        rows.shuffle(seed=1).with_format("pandas"),
    ]


def test_the_format_of_a_dataset_changes_nothing(make_lm: Callable[..., PersonalizedLM]) -> None:
    plain = make_interactions(users=3, rows=4)
    lm = make_lm()
    for rows in _formatted(plain):
        found = check_interactions(rows)
        assert found.format["type"] is None
        expected = plain if rows._indices is None else plain.shuffle(seed=1)
        assert found.to_list() == expected.to_list()
        assert of_users(rows, ["user-1"]).to_list() == of_users(expected, ["user-1"]).to_list()
        assert {k: v.tolist() for k, v in rows_by_user(rows).items()} == {
            k: v.tolist() for k, v in rows_by_user(expected).items()
        }
        assert chronological_split(rows)["train"].to_list() == chronological_split(expected)["train"].to_list()
        if rows._indices is None and rows.format["columns"] == plain.column_names:
            assert lm.encode(rows).prefixes == lm.encode(plain).prefixes


def test_other_kinds_of_datasets_are_told() -> None:
    rows = make_interactions(users=2, rows=2)
    with pytest.raises(InteractionsError, match=r"got DatasetDict; give one split of train"):
        check_interactions(datasets.DatasetDict({"train": rows}))  # type: ignore[arg-type]
    with pytest.raises(InteractionsError, match="got IterableDataset; a stream"):
        check_interactions(rows.to_iterable_dataset())  # type: ignore[arg-type]
    with pytest.raises(InteractionsError, match="got DataFrame; make one with"):
        of_users(rows.to_pandas(), ["user-0"])  # type: ignore[arg-type]


def test_categoricals_and_index_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(GOOD).astype({"user_id": "category", "item_text": "category"})
    frame.index = pd.Index([5, 9])
    frame.to_parquet(tmp_path / "rows.parquet")
    train = load_interactions(tmp_path / "rows.parquet")["train"]
    assert train.to_dict() == GOOD


def test_columns_that_no_dataset_can_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = pa.array([b"a" * 16, b"b" * 16], pa.uuid())
    assert sorted(from_parquet(tmp_path, own=keys).column_names) == sorted(GOOD) and "own have types" in caplog.text
    with pytest.raises(InteractionsError, match=r"found values of type extension<arrow.uuid>"):
        from_parquet(tmp_path, user_id=keys)
    table = pa.table([pa.array(["a"])] * 2, names=["user_id", "user_id"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InteractionsError, match="user_id more than once"):
        load_interactions(tmp_path / "rows.parquet")


# More than Arrow's 32-bit offsets hold


def test_rows_are_taken_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = make_interactions(users=5, rows=40)
    rows = rows.add_column("history", [["t" * int(n)] * 3 for n in generator.integers(0, 50, len(rows))])
    numbers = generator.permutation(len(rows))
    expected = take_rows(rows, numbers)
    monkeypatch.setattr(rows_module, "_BYTES_AT_ONCE", 1000)
    taken = take_rows(rows, numbers)
    assert taken.to_list() == expected.to_list() == rows.select(numbers).to_list()
    assert column(taken, "item_text").num_chunks > 5
    pieces = datasets.concatenate_datasets([taken, rows.select(range(50)), rows])
    assert take_rows(pieces, numbers + 50).to_list() == pieces.select(numbers + 50).to_list()
    assert take_rows(rows, [])[:] == rows.select([])[:]
    assert take_rows(rows, [3]).to_list() == [rows[3]]


# Histories


def test_the_newest_titles_are_shown_oldest_first() -> None:
    template = PromptTemplate("<history> <user>")
    assert template.render({"history": list("abcdefg")})[0] == "c; d; e; f; g "
    assert template.render({"history": ["a", None, "b", "", float("nan")]})[0] == "a; b "
    for empty in (None, [], [None], np.array([], dtype=object)):
        assert template.render({"history": empty})[0] == " "
    assert template.render({"history": np.array(["a", "b"], dtype=object)})[0] == "a; b "
    assert PromptTemplate("<item><user>").render({"item_text": ""}) == ("", "")
    with pytest.raises(InteractionsError, match="no item_text"):
        PromptTemplate("<item><user>").render({"item_text": None})


@pytest.mark.parametrize("history", ["a title", b"a", {"a": 1}, [1, 2], 7])
def test_histories_that_are_no_lists_of_titles(history: Any) -> None:
    with pytest.raises(InteractionsError, match="history must"):
        PromptTemplate("<history> <user>").render({"history": history})


# What is told


def test_users_without_held_out_rows_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_interactions(users=3, rows=1).to_parquet(tmp_path / "one.parquet")
    assert not len(load_interactions(tmp_path / "one.parquet")["validation"])
    assert "each of the 3 users has a single row" in caplog.text
    both = datasets.concatenate_datasets([make_interactions(users=3, rows=1), make_interactions(users=1, rows=4)])
    both.to_parquet(tmp_path / "some.parquet")
    with caplog.at_level(logging.INFO):
        load_interactions(tmp_path / "some.parquet")
    assert "1 of 3 users have held-out rows" in caplog.text


def test_a_class_that_is_missing() -> None:
    rows = datasets.Dataset.from_dict({**GOOD, "label": [1, -1]}).cast_column(
        "label", datasets.ClassLabel(names=["1", "2"])
    )
    with pytest.raises(InteractionsError, match="column 'label' is empty in 1 of 2 rows"):
        check_interactions(rows)
