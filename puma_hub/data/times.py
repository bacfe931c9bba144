"""Converting timestamps to values that can be ordered: numbers, times, or text of either."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.data.cell_values import blank, decoded, first_row, is_text
from puma_hub.errors import InteractionsError

_WHOLE = r"^\s*[+-]?\d+\s*$"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_ISO = r"^\s*\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?\s*([Zz]|[+-]\d\d(:?\d\d)?)?\s*$"
_ZONE = r"\d\d:\d\d.*([Zz]|[+-]\d\d(:?\d\d)?)\s*$"
_EXAMPLE = "numbers or times such as 2024-12-31 23:59:00"
# Ranges of the years 1985 to 2128 in seconds since 1970, and in milliseconds, microseconds and nanoseconds.
_SECONDS = (5e8, 5e9)


def as_times(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as int64, double or an Arrow date or timestamp. Text is parsed as one of these.

    Times with time zones become times in UTC.

    Raises:
        InteractionsError: values are missing, not finite or of different kinds. The message has the row.
    """
    values = decoded(values)
    kind = values.type
    empty = blank(values) if is_text(kind) else values.null_count
    if pa.types.is_floating(kind):
        empty += pc.sum(pc.is_nan(values)).as_py() or 0
    if empty:
        raise InteractionsError(
            f"column 'timestamp' is empty in {empty} of {len(values)} rows; fill them, or leave the column out"
        )
    if is_text(kind):
        values = _of_text(values)
        kind = values.type
    elif pa.types.is_decimal(kind) or pa.types.is_floating(kind) or pa.types.is_unsigned_integer(kind):
        values = values.cast(pa.float64(), safe=False) if not pa.types.is_integer(kind) else values.cast(pa.int64())
    elif pa.types.is_integer(kind):
        values = values.cast(pa.int64())
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InteractionsError(f"column 'timestamp' must hold {_EXAMPLE}, found values of type {kind}; convert them")
    if not pa.types.is_temporal(values.type):
        _check_numbers(np.asarray(values.to_numpy(), dtype=np.float64))
    return values


def order_key(values: pa.ChunkedArray) -> np.ndarray:
    """The result of :func:`as_times` as int64 or float64 ``(N,)`` in the same order; times in microseconds or finer."""
    kind = values.type
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    return np.asarray(values.to_numpy())


def as_microseconds(values: np.ndarray) -> np.ndarray:
    """Numbers ``(N,)`` in microseconds if their size shows the unit (years 1985 to 2128); other numbers unchanged."""
    result = values.copy()
    for unit in (1.0, 1e3, 1e6, 1e9):
        within = (values >= _SECONDS[0] * unit) & (values < _SECONDS[1] * unit)
        result[within] = values[within] // 1000 if unit == 1e9 else np.rint(values[within] * (1e6 / unit))
    return result


def _check_numbers(values: np.ndarray) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise InteractionsError(
            f"column 'timestamp' is infinite in {int((~finite).sum())} of {len(values)} rows, the first in row "
            f"{first_row(~finite)}; correct them"
        )
    units = {
        name: (values >= low * factor) & (values < high * factor)
        for name, factor in (("seconds", 1.0), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
        for low, high in (_SECONDS,)
    }
    found = {name: int(rows.sum()) for name, rows in units.items() if rows.any()}
    if len(found) > 1 and sum(found.values()) == len(values):
        mixed = ", ".join(f"{count} rows in {name}" for name, count in found.items())
        raise InteractionsError(f"column 'timestamp' mixes units of time: {mixed}; convert all to one unit")


def _of_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64())):
        if _holds(values, pattern):
            try:
                return pc.utf8_ltrim(pc.utf8_trim_whitespace(values), "+").cast(kind)
            except pa.ArrowInvalid as error:
                raise InteractionsError(
                    "column 'timestamp' holds whole numbers beyond 64 bits; give seconds, or times in text"
                ) from error
    zoned = np.asarray(pc.match_substring_regex(values, _ZONE))
    good = np.asarray(pc.match_substring_regex(values, _ISO))
    if not good.all():
        bad = ~good
        numbers = np.asarray(pc.match_substring_regex(values, _NUMBER))
        others = "times" if good.any() else "numbers" if numbers.any() else None
        if others == "numbers":
            bad = ~numbers
        among = f", the others are {others}" if others else ""
        example = values[first_row(bad) - 1].as_py()
        raise InteractionsError(
            f"column 'timestamp' must hold {_EXAMPLE}, found {example[:40]!r} in row {first_row(bad)} "
            f"({int(bad.sum())} of {len(values)} rows hold such text{among}); convert it, for instance with "
            "pandas.to_datetime"
        )
    if zoned.any() and not zoned.all():
        raise InteractionsError(
            f"column 'timestamp' has a time zone in {int(zoned.sum())} of {len(values)} rows, the first without one is "
            f"row {first_row(~zoned)}; give all of them a time zone, or none"
        )
    zone = "UTC" if zoned.any() else None
    text = pc.utf8_trim_whitespace(values)
    for unit in ("us", "ns"):
        try:
            return text.cast(pa.timestamp(unit, zone))
        except pa.ArrowInvalid:
            continue
    raise InteractionsError(f"column 'timestamp' must hold {_EXAMPLE}; {_first_unreadable(text, zone)}")


def _first_unreadable(text: pa.ChunkedArray, zone: str | None) -> str:
    """The first row whose date does not exist, found by bisection."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            text.slice(low, middle - low).cast(pa.timestamp("us", zone))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return f"{text[low].as_py()!r} in row {low + 1} is not a date of the calendar; correct it"


def _holds(values: pa.ChunkedArray, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is True
