"""Reading JSON and JSON lines as an Arrow table. Ids stay as they are written; no type is guessed from first rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from puma_hub.data.file_kinds import encoding_of, open_text
from puma_hub.data.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from puma_hub.errors import InteractionsError

_ROWS = 50_000
_TEXT = ("user_id", "item_id", "item_text")
_OURS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS


def read_json(path: Path, *, encoding: str | None = None) -> pa.Table:
    """Read JSON lines (one object on each line) or one JSON document.

    A document may be a list of objects, such a list under ``data`` or another single name, or columns by name as pandas
    writes them. Ids that are numbers of any length become text as they are written. An id column may mix numbers and
    text. A missing key is null.

    Raises:
        InteractionsError: the file is not JSON (the message has the line), or has no rows.
    """
    encoding = encoding_of(path, encoding)
    builder = _Columns(path)
    rows = _rows(path, encoding)
    while batch := list(islice(rows, _ROWS)):
        builder.add(batch)
    return builder.table()


def _rows(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with open_text(path, encoding) as text:
        first = next((line for line in text if line.strip()), None)
    if first is None:
        raise InteractionsError(f"{path} is empty; give a file with rows")
    yield from _lines(path, encoding) if _is_object(first) else _document(path, encoding)


def _is_object(line: str) -> bool:
    """Whether a line is a row, and not a document with a whole table."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and (not _records(value) or _is_row(value))


def _is_row(value: dict[str, Any]) -> bool:
    named = [value[name] for name in REQUIRED_COLUMNS if name in value]
    return bool(named) and not all(isinstance(part, (list, dict)) for part in named)


def _lines(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with open_text(path, encoding) as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InteractionsError(
                    f"cannot read {path} as json: line {number}: {error}; give one object on each line, or one list"
                ) from error
            if not isinstance(row, dict):
                raise InteractionsError(
                    f"cannot read {path} as json: line {number} holds a {type(row).__name__}, not an object with the "
                    f"columns {', '.join(REQUIRED_COLUMNS)}"
                )
            yield row


def _document(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with open_text(path, encoding) as text:
        try:
            document = json.load(text)
        except UnicodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise InteractionsError(f"cannot read {path} as json: {error}; it may be cut short") from error
    rows = _records(document)
    if rows is None:
        raise InteractionsError(
            f"{path} holds json, but no table: give a list of objects, or one object on each line, with the columns "
            f"{', '.join(REQUIRED_COLUMNS)}"
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InteractionsError(f"{path}: entry {number} is a {type(row).__name__}, not an object; correct it")
        yield row


def _records(document: Any) -> Iterable[Any] | None:
    """The rows of a document in one of the shapes of :func:`read_json`."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    if _is_row(document):
        return [document]
    if {"columns", "data"} <= set(document) and document["data"] and isinstance(document["data"][0], list):
        return [dict(zip(document["columns"], row)) for row in document["data"]]
    named = [document.get(name) for name in REQUIRED_COLUMNS]
    if all(isinstance(part, list) for part in named):
        return _of_columns({name: part for name, part in document.items() if isinstance(part, list)})
    if all(isinstance(part, dict) for part in named):
        keys = list(document["user_id"])
        return [{name: part.get(key) for name, part in document.items()} for key in keys]
    lists = [part for part in document.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if "data" in document and document["data"] in lists:
        return document["data"]
    if len(lists) == 1:
        return lists[0]
    if document and all(isinstance(part, dict) for part in document.values()):
        return document.values()
    return None


def _of_columns(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InteractionsError(f"the columns differ in length: {listed}; give each row a value in every column")
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


class _Columns:
    """Rows as columns, in batches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, list[pa.Array]] = {}
        self._sizes: list[int] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            chunks = self._columns.setdefault(name, [pa.nulls(size) for size in self._sizes])
            try:
                chunks.append(_array(name, values))
            except UnicodeEncodeError as error:
                raise InteractionsError(
                    f"{self._path}: column {name!r} holds half of a surrogate pair, which is no text; correct it"
                ) from error
        self._sizes.append(len(rows))
        for chunks in self._columns.values():
            if len(chunks) < len(self._sizes):
                chunks.append(pa.nulls(len(rows)))

    def table(self) -> pa.Table:
        if not self._sizes:
            raise InteractionsError(f"{self._path} holds no rows; give at least one")
        return pa.table({name: _joined(name, chunks) for name, chunks in self._columns.items()})


def _array(name: str, values: list[Any]) -> pa.Array:
    if name in _TEXT:
        return pa.array([value if type(value) is str else _text(name, value) for value in values], pa.string())
    if name in ("label", "timestamp"):
        return _numbers(name, values)
    try:
        return pa.array(values)
    # Arrow raises one or another of these for values of several kinds; NotImplemented is its name for such a type.
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        if name in _OURS:
            raise InteractionsError(
                f"column {name!r} must hold lists of titles; found values of several kinds"
            ) from None
        return pa.array([_json(value) for value in values], pa.string())


def _text(name: str, value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        kind = "nested values" if isinstance(value, (dict, list)) else type(value).__name__
        raise InteractionsError(f"column {name!r} must hold text or whole numbers, found {kind}; make it text")
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2.0**53:
            return str(int(value))
        if name != "item_text":
            raise InteractionsError(
                f"column {name!r} holds {value!r}, which is not a whole number; ids must be text or whole numbers"
            )
    return str(value)


def _numbers(name: str, values: list[Any]) -> pa.Array:
    """int64 or double if all values are numbers, otherwise text, which is parsed as numbers or times later."""
    values = [int(value) if isinstance(value, bool) else value for value in values]
    if any(isinstance(value, (dict, list)) for value in values):
        raise InteractionsError(f"column {name!r} must hold single values, found nested ones; give each row one value")
    if any(isinstance(value, str) for value in values):
        return pa.array([None if value is None or value != value else str(value) for value in values], pa.string())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, OverflowError):  # whole numbers among fractions, or beyond 64 bits
        return pa.array([_number(value) for value in values], pa.float64())


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:  # reported later, like infinity
        return math.inf


def _json(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(name: str, chunks: list[pa.Array]) -> pa.ChunkedArray:
    """The batches cast to a common type, or to text if there is none."""
    if len({chunk.type for chunk in chunks}) == 1:
        return pa.chunked_array(chunks)
    try:
        tables = [pa.table({name: chunk}) for chunk in chunks]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.chunked_array([pa.array([_json(v) for v in chunk.to_pylist()], pa.string()) for chunk in chunks])
