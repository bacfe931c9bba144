"""Reading delimited text as an Arrow table of text. Cells are not changed, and all rows must have as many fields.

Arrow's parser is fast, but lenient with quotes. Python's parser is strict and knows line numbers. Arrow reads files
with regular quotes, Python all others.
"""

from __future__ import annotations

import codecs
import csv
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from puma_hub.data.file_kinds import encoding_of, open_bytes, open_text
from puma_hub.data.schema import REQUIRED_COLUMNS, plain_column_name, require_columns
from puma_hub.errors import ConfigurationError, InteractionsError

SEPARATORS = (",", ";", "\t", "::", "|")
_UNIT = "\x1f"  # replaces a separator of several characters, which parsers do not support
_ROWS = 50_000
_BLOCK = 2**24
_FIELD_LIMIT = threading.Lock()  # the csv module has one limit for the whole process


def read_csv(
    path: Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    columns: Sequence[str] | None = None,
    needed: Sequence[str] = REQUIRED_COLUMNS,
) -> pa.Table:
    """Read a file with a header, or a file without one whose column names are given as ``columns``.

    Args:
        separator: detected from the first row by default.
        encoding: that of the byte order mark, or UTF-8, by default.
        needed: columns that must be there.

    Returns:
        A table of text. Empty cells are null. An unnamed first column, the index of pandas, is left out.

    Raises:
        InteractionsError: the file is empty, a row and the header have different numbers of fields, a quote is not
            closed, names repeat, or the text is not in its encoding.
    """
    if separator == "":
        raise ConfigurationError("the separator must be a character, got ''; leave it out to have it found")
    encoding = encoding_of(path, encoding)
    separator, first = _first_row(path, separator, encoding, columns, needed)
    header = list(columns) if columns is not None else first
    _check_header(path, header, first, separator, columns is not None, needed)
    table = None
    if encoding == "utf-8-sig" and len(separator) == 1 and _has_regular_quotes(path, separator):
        table = _by_arrow(path, separator, header, columns is None)
    if table is None:
        table = _by_python(path, separator, encoding, header, columns is None)
    if not len(table):
        raise InteractionsError(f"{path} has a header and no rows; give at least one row")
    _require_one_reading(path, separator, encoding, table)
    return _named(path, table)


def _first_row(
    path: Path, separator: str | None, encoding: str, columns: Sequence[str] | None, needed: Sequence[str]
) -> tuple[str, list[str]]:
    found: dict[str, list[str]] = {}
    quotes = False
    for candidate in SEPARATORS if separator is None else (separator,):
        with open_text(path, encoding) as text, _no_field_limit():
            try:
                row = next((row for row in _rows(text, candidate) if row), None)
            except csv.Error:
                row, quotes = None, True
        if row is not None:
            found[candidate] = row
    if quotes and all(len(row) == 1 for row in found.values()):
        raise InteractionsError(
            f"{path}, line 1: a double quote stands inside a field or never closes; put such fields in double quotes, "
            "and write a quote inside twice"
        )
    if not found:
        raise InteractionsError(f"{path} holds no rows; give a file with rows")

    def fits(candidate: str) -> tuple[bool, int]:
        row = found[candidate]
        if columns is not None:
            return len(row) == len(columns), len(row)
        return {plain_column_name(name) for name in needed} <= set(map(plain_column_name, row)), len(row)

    best = max(found, key=fits)
    return best, found[best]


def _check_header(
    path: Path, header: list[str], first: list[str], separator: str, named: bool, needed: Sequence[str]
) -> None:
    if named:
        if len(first) != len(header):
            raise InteractionsError(
                f"{path}, line 1 has {len(first)} fields with the separator {separator!r}, columns has {len(header)}; "
                "give one name for each field, or the separator (--separator)"
            )
    elif any("\0" in name for name in first):
        raise InteractionsError(
            f"{path} has zero bytes in its first line, as text in UTF-16 has; name its encoding, such as "
            "encoding='utf-16-le' (--encoding)"
        )
    elif first[0].startswith("sep="):
        raise InteractionsError(f"{path} begins with a line for Excel, {first[0]!r}; take that line out")
    elif len(first) == 1 and first != list(needed):
        names = ", ".join(repr(known) for known in (SEPARATORS if separator in SEPARATORS else (separator,)))
        raise InteractionsError(
            f"{path} has the single column {first[0][:40]!r}: the separator is none of {names}; name it with "
            "separator=... (--separator)"
        )
    elif not any(any(c.isalpha() for c in name) for name in first):
        raise InteractionsError(
            f"{path} has no header: its first line holds {', '.join(first)[:60]}; name its {len(first)} columns in "
            "order, such as columns=('user_id', 'item_id', 'label', 'timestamp') (--columns)"
        )
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InteractionsError(f"{path} names the columns {', '.join(repeated)} more than once; rename them")
    require_columns(header, needed)


def _has_regular_quotes(path: Path, separator: str) -> bool:
    """Whether all quotes enclose fields, or are doubled inside such a field, and all are closed."""
    quote, edges = ord('"'), np.zeros(256, dtype=bool)
    edges[[ord(separator), ord("\n"), ord("\r"), quote]] = True
    count, tail = 0, b"\n"
    with open_bytes(path) as file:
        _skip_mark(file)
        while True:
            block = file.read(_BLOCK)
            data = np.frombuffer(tail + (block or b"\n"), dtype=np.uint8)
            places = np.flatnonzero(data[1:-1] == quote) + 1
            opening = (np.arange(len(places)) + count) % 2 == 0
            beside = np.where(opening, data[places - 1], data[places + 1])
            if not edges[beside].all():
                return False
            count += len(places)
            if not block:
                return count % 2 == 0
            tail = data[-2:].tobytes()


def _by_arrow(path: Path, separator: str, header: list[str], has_header: bool) -> pa.Table | None:
    """The file read by Arrow's parser. None if it fails; Python's parser then finds out why."""
    try:
        with open_bytes(path) as file:
            _skip_mark(file)
            table = arrow_csv.read_csv(
                pa.PythonFile(file, "r"),
                arrow_csv.ReadOptions(block_size=_BLOCK, column_names=None if has_header else header),
                arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                arrow_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
            )
    except pa.ArrowInvalid:
        return None
    return table if table.column_names == header else None


def _skip_mark(file: Any) -> None:
    """Skip a byte order mark of UTF-8. Not all files can seek back."""
    if file.peek(3)[:3] == codecs.BOM_UTF8:
        file.read(3)


def _by_python(path: Path, separator: str, encoding: str, header: list[str], has_header: bool) -> pa.Table:
    columns: list[list[pa.Array]] = [[] for _ in header]
    with open_text(path, encoding) as text, _no_field_limit():
        rows = (row for row in _rows(text, separator) if row)
        try:
            for _ in islice(rows, int(has_header)):
                pass
            while batch := list(islice(rows, _ROWS)):
                if set(map(len, batch)) != {len(header)}:
                    _first_fault(path, separator, encoding, header)
                for column, cells in zip(columns, zip(*batch)):
                    column.append(pa.array(cells, pa.string()))
        except csv.Error:
            _first_fault(path, separator, encoding, header)
    return pa.table([pa.chunked_array(chunks, pa.string()) for chunks in columns], header)


def _rows(lines: Iterable[str], separator: str) -> Any:
    if len(separator) == 1:
        return csv.reader(lines, delimiter=separator, strict=True)
    return csv.reader(_with_unit(lines, separator), delimiter=_UNIT, quoting=csv.QUOTE_NONE)


def _with_unit(lines: Iterable[str], separator: str) -> Iterator[str]:
    for line in lines:
        if _UNIT in line:
            raise csv.Error(f"a file with the separator {separator!r} must not have the control character {_UNIT!r}")
        yield line.replace(separator, _UNIT)


def _first_fault(path: Path, separator: str, encoding: str, header: list[str]) -> None:
    """Read row by row up to the first fault, and raise an error that describes it."""
    with open_text(path, encoding) as text:
        rows = _rows(text, separator)
        line = 1
        try:
            for row in rows:
                if row and len(row) != len(header):
                    raise InteractionsError(
                        f"{path}, line {line} has {len(row)} fields, the header has {len(header)} (separator "
                        f"{separator!r}): put fields that hold the separator in double quotes"
                    )
                line = rows.line_num + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise InteractionsError(
                    f"{path}, line {line}: a double quote opens there and never closes; close it, or write a quote "
                    "inside a field twice"
                ) from error
            raise InteractionsError(
                f"{path}, line {rows.line_num}: {error}; write a quote inside a quoted field twice"
            ) from error


def _require_one_reading(path: Path, separator: str, encoding: str, table: pa.Table) -> None:
    """Check that quotes do not join rows: one text begins with a quote, and a later text ends with one."""
    for values in table.columns if len(separator) == 1 else ():
        joined = pc.match_substring(values, "\n")
        if pc.any(joined).as_py() and pc.any(pc.match_substring(values.filter(joined), separator)).as_py():
            break
    else:
        return
    fields = len(table.column_names)
    with open_text(path, encoding) as text:
        if all(line.count(separator) + 1 == fields for line in text if line.strip()):
            raise InteractionsError(
                f"{path}: double quotes join lines, but every line by itself has {fields} fields too; put fields with "
                "quotes in double quotes and write a quote inside twice"
            )


@contextmanager
def _no_field_limit() -> Iterator[None]:
    with _FIELD_LIMIT:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _named(path: Path, table: pa.Table) -> pa.Table:
    """The columns with a name. A first column without a name is the index that pandas writes."""
    kept = {}
    for number, name in enumerate(table.column_names):
        values = table.column(number)
        if name.strip():
            kept[name] = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        elif number and pc.any(pc.not_equal(values, "")).as_py():
            raise InteractionsError(f"{path}: column {number + 1} has values and no name; name it or take it out")
    return pa.table(kept)
