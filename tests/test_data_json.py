"""JSON in the shapes that writers give it; ids as they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from puma_hub.data import load_interactions
from puma_hub.errors import InteractionsError

ROWS: list[dict[str, Any]] = [
    {"user_id": "a", "item_id": "x", "item_text": "X", "label": 4},
    {"user_id": "a", "item_id": "y", "item_text": "Y", "label": 3.5},
]


def load(path: Path, content: str, ending: str = "json") -> list[dict[str, Any]]:
    file = path / f"rows.{ending}"
    file.write_text(content, encoding="utf-8")
    splits = load_interactions(file, held_out=0.5)
    return [*splits["train"], *splits["validation"]]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
@pytest.mark.parametrize("indent", [None, 2])
def test_orients_of_pandas(tmp_path: Path, orient: Any, indent: int | None) -> None:
    found = load(tmp_path, pd.DataFrame(ROWS).to_json(orient=orient, indent=indent))
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS


@pytest.mark.parametrize(
    "content",
    [
        lines(ROWS),
        "\ufeff" + lines(ROWS),
        "\n" + lines(ROWS).replace("\n", "\r\n\r\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1", "ratings": ROWS}, indent=1),
        json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_shapes_of_json(tmp_path: Path, content: str, ending: str) -> None:
    assert load(tmp_path, content, ending) == ROWS


def test_nested_columns_of_ones_own_stay(tmp_path: Path) -> None:
    rows = [{**row, "tags": [{"a": 1}], "year": 1995} for row in ROWS]
    assert load(tmp_path, lines(rows)) == rows
    mixed = [{**ROWS[0], "own": 1}, {**ROWS[1], "own": {"b": "c"}}]
    assert [row["own"] for row in load(tmp_path, lines(mixed))] == ["1", '{"b": "c"}']


def test_long_ids_stay_apart(tmp_path: Path) -> None:
    ids = [18446744073709551613, 18446744073709551614, 2**53, 2**53 + 1, -7]
    rows = [{**ROWS[0], "user_id": number} for number in ids for _ in range(2)]
    assert {row["user_id"] for row in load(tmp_path, lines(rows))} == {str(number) for number in ids}


def test_titles_that_look_like_times_and_ids_of_two_kinds(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "user_id": user, "item_text": "2001-09-11"} for user in (7, "guest", 7.0, "guest")]
    found = load(tmp_path, lines(rows))
    assert {row["user_id"] for row in found} == {"7", "guest"}
    assert {row["item_text"] for row in found} == {"2001-09-11"}


def test_types_do_not_depend_on_the_first_rows(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "label": 4}] * 50_001 + [{**ROWS[0], "label": 3.5, "item_id": 5}, {**ROWS[0], "label": "4.5"}]
    found = load(tmp_path, lines(rows))
    assert {row["label"] for row in found} == {4.0, 3.5, 4.5} and len(found) == 50_003


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], {"user_id": "a", "item_id": "y", "item_text": "Y"}], "'label' is empty in 1 of 2"),
        ([ROWS[0], {**ROWS[0], "user_id": None}], "'user_id' is empty in 1 of 2"),
        ([ROWS[0], {**ROWS[0], "label": float("nan")}], "NaN|empty"),
        ([ROWS[0], {**ROWS[0], "user_id": 7.5}], "not a whole number"),
        ([ROWS[0], {**ROWS[0], "user_id": True}], "found bool"),
        ([ROWS[0], {**ROWS[0], "item_text": ["X"]}], "found nested values"),
        ([ROWS[0], {**ROWS[0], "label": [1]}], "found nested ones"),
        ([{**ROWS[0], "history": "a"}, ROWS[1]], "'history' must hold lists"),
        ([{**ROWS[0], "history": [1]}, ROWS[1]], "found lists of int64"),
        ([{**ROWS[0], "history": ["a"]}, {**ROWS[1], "history": "b"}], "'history' must hold lists"),
        ([{**ROWS[0], "item_text": "\ud800"}, ROWS[1]], "surrogate"),
    ],
)
def test_bad_values(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InteractionsError, match=message):
        load(tmp_path, lines(rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(ROWS) + "{oops\n", "line 3"),
        (lines(ROWS) + "[1]\n", "line 3 holds a list"),
        ("[]", "no rows"),
        ("", "empty"),
        (" \n", "empty"),
        ("[1, 2]", "entry 1 is a int"),
        ('{"a": 1, "b": 2}', "missing, found a, b"),
        (json.dumps(ROWS)[:-3], "cut short"),
        ('{"user_id": ["a"], "item_id": ["b", "c"], "item_text": [], "label": []}', "differ in length"),
        ("7", "no table"),
    ],
)
def test_bad_json(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InteractionsError, match=message):
        load(tmp_path, content)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_nested_too_deeply(tmp_path: Path, ending: str) -> None:
    with pytest.raises(InteractionsError, match=r"cannot read .* as json"):
        load(tmp_path, "[" * 100_000 + "]" * 100_000, ending)


def test_a_label_beyond_floats(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="1 of 1 labels are NaN or infinite"):
        load(tmp_path, '{"user_id": 1, "item_id": 1, "item_text": "t", "label": ' + "9" * 400 + "}")
