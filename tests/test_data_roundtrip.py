"""Whatever is in ids and titles, every writer's file is read back as it was."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puma_hub.data import load_interactions

COLUMNS = ["user_id", "item_id", "item_text", "label"]
# All of Unicode but half surrogates, which no encoding has, and NUL, which the csv module of Python 3.10 refuses.
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(st.one_of(st.sampled_from(',;|\t"\n\r\\: a0'), ANY), min_size=1, max_size=12)
ROW = st.tuples(TEXT, TEXT, TEXT, st.sampled_from([1.0, 2.5, 5.0]))
ROWS = st.lists(ROW, min_size=1, max_size=8)
Row = tuple[str, str, str, float]


def _pandas(rows: list[Row], path: Path) -> None:
    # Left alone, pandas writes a lone carriage return as if it were a letter; no reader can tell it from a line's end.
    quoting = csv.QUOTE_NONNUMERIC if any("\r" in cell for row in rows for cell in row[:3]) else csv.QUOTE_MINIMAL
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, lineterminator="\n", quoting=quoting)


def _dialect(name: str, rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, name).writerows([COLUMNS, *rows])


def _lines(rows: list[Row], path: Path) -> None:
    content = "".join(json.dumps(dict(zip(COLUMNS, row)), ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows)
    path.write_bytes(content.encode())


WRITERS = {
    "pandas.csv": _pandas,
    "excel.csv": lambda rows, path: _dialect("excel", rows, path),
    "tab.tsv": lambda rows, path: _dialect("excel-tab", rows, path),
    "unix.csv": lambda rows, path: _dialect("unix", rows, path),
    "rows.jsonl": _lines,
    "list.json": lambda rows, path: path.write_text(json.dumps([dict(zip(COLUMNS, row)) for row in rows])),
    "frame.json": lambda rows, path: pd.DataFrame(rows, columns=COLUMNS).to_json(path, orient="columns"),
    "frame.parquet": lambda rows, path: pd.DataFrame(rows, columns=COLUMNS).to_parquet(path),
    "arrow.parquet": lambda rows, path: pa.parquet.write_table(
        pa.table({name: pa.array(values) for name, values in zip(COLUMNS, zip(*rows))}), path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS)
def test_read_back_as_written(name: str, rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        WRITERS[name](rows, path)
        splits = load_interactions(path)
        found = datasets.concatenate_datasets([splits["train"], splits["validation"]])
        assert sorted(tuple(row[column] for column in COLUMNS) for row in found) == sorted(rows)
