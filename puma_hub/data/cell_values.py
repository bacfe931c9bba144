"""Converting Arrow columns of any type to text or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.errors import InteractionsError

_EXACT = 2.0**53  # above this, a float cannot hold every whole number
_TRUTH = {"true": "1", "false": "0"}
_NUMBER = r"^\s*[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:inf(inity)?))\s*$"
_COMMA = r"^\s*[+-]?\d+(,\d+)?\s*$"
_GROUPED = r"^\s*[+-]?\d{1,3}(,\d{3})+\s*$"


def is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def first_row(mask: Any) -> int:
    """The number of the first true row of an Arrow or NumPy mask, counted from 1."""
    return int(np.argmax(np.asarray(mask))) + 1


def decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without a dictionary (a categorical of pandas), an extension type or run-length encoding."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return decoded(pa.chunked_array([chunk.storage for chunk in values.chunks], kind.storage_type))
    if pa.types.is_dictionary(kind):
        return decoded(values.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return decoded(pa.chunked_array([pc.run_end_decode(chunk) for chunk in values.chunks], kind.value_type))
    return values


def as_text(values: pa.ChunkedArray, name: str, fractions: bool = False) -> pa.ChunkedArray:
    """The column as ``string``; nulls are kept. Whole numbers in a float column lose their ``.0``: ``7.0`` is ``7``.

    Args:
        fractions: allow other floats too, as their shortest text. By default they are an error, since ids are whole.

    Raises:
        InteractionsError: the column holds something other than text and numbers, or floats that cannot be ids.
    """
    values = decoded(values)
    kind = values.type
    if kind == pa.string():
        return values
    if is_text(kind):
        return _rechunked(values, pa.string())
    if pa.types.is_decimal(kind):
        return _decimal_text(values, name, fractions)
    if pa.types.is_integer(kind) or pa.types.is_null(kind) or pa.types.is_date(kind):
        return values.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        return _float_text(values, name, fractions)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        try:
            return _rechunked(values, pa.string())
        except pa.ArrowInvalid as error:
            raise InteractionsError(
                f"column {name!r} holds bytes that are not text in UTF-8; decode them to text"
            ) from error
    nested = "nested values" if pa.types.is_nested(kind) else f"values of type {kind}"
    raise InteractionsError(f"column {name!r} must hold text or whole numbers, found {nested}; make it text")


def _rechunked(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast text of any Arrow type to ``kind``, in chunks that fit its 32-bit offsets."""
    chunks: list[pa.Array] = []
    waiting = list(reversed(values.chunks))
    while waiting:
        chunk = waiting.pop()
        if chunk.nbytes > 2**30 and len(chunk) > 1:
            half = len(chunk) // 2
            waiting += [chunk.slice(half), chunk.slice(0, half)]
        else:
            chunks.append(chunk.cast(kind))
    return pa.chunked_array(chunks, kind)


def _float_text(values: pa.ChunkedArray, name: str, fractions: bool) -> pa.ChunkedArray:
    values = values.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.fill_null(pc.and_(pc.equal(pc.round(values), values), pc.less(pc.abs(values), _EXACT)), True)
    if pc.all(whole).as_py() is not False:
        return values.cast(pa.int64()).cast(pa.string())
    if fractions:
        text = pc.if_else(whole, pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string()), "")
        return pc.if_else(whole, text, values.cast(pa.string()))
    bad = pc.invert(whole)
    raise InteractionsError(
        f"column {name!r} holds {pc.sum(bad).as_py()} floats that are not exact whole numbers, the first in row "
        f"{first_row(bad)}; ids must be text or whole numbers: make the column text before it is written"
    )


def _decimal_text(values: pa.ChunkedArray, name: str, fractions: bool) -> pa.ChunkedArray:
    """Decimals as text. Databases write whole numbers with decimal places: the id ``7.0000`` is ``7``."""
    try:
        wide = values.cast(pa.decimal256(76, max(values.type.scale, 0)))  # the type that all functions support
    # Arrow's error for a cast that it lacks is named NotImplemented; nothing of ours is unfinished here.
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InteractionsError(f"column {name!r} holds decimals of type {values.type}; make it text") from error
    with_places = pc.not_equal(pc.round(wide), wide)
    if pc.any(with_places).as_py() and fractions:
        return values.cast(pa.string())
    if pc.any(with_places).as_py():
        raise InteractionsError(
            f"column {name!r} holds {pc.sum(with_places).as_py()} decimals that are not whole numbers, the first in "
            f"row {first_row(pc.fill_null(with_places, False))}; ids must be text or whole numbers: make the column "
            "text before it is written"
        )
    return wide.cast(pa.decimal256(76, 0)).cast(pa.string())


def blank(values: pa.ChunkedArray) -> int:
    """The number of missing or empty values in a column of text."""
    return int(values.null_count + (pc.sum(pc.equal(values, "")).as_py() or 0))


def as_numbers(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The column as ``double``; nulls are kept. Takes numbers, decimals, booleans (as 1 and 0), or text of these.

    Raises:
        InteractionsError: some values are not numbers. The message has their number and the first one's row.
    """
    values = decoded(values)
    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return values.cast(pa.float64(), safe=False)
    if not is_text(kind):
        found = "nested values" if pa.types.is_nested(kind) else f"values of type {kind}"
        raise InteractionsError(f"column {name!r} must hold numbers, found {found}; make it a number")
    return _parsed(values, name)


def _parsed(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    distinct = values.unique()  # there are few distinct labels, so the checks below may be slow
    stripped = pc.utf8_trim_whitespace(distinct)
    stripped = pc.if_else(pc.equal(stripped, ""), pa.scalar(None, stripped.type), stripped)
    for word, number in _TRUTH.items():
        stripped = pc.if_else(pc.equal(pc.utf8_lower(stripped), word), number, stripped)
    stripped = pc.if_else(pc.is_in(pc.utf8_lower(stripped), pa.array(["nan", "null"], stripped.type)), None, stripped)
    if not _all(pc.match_substring_regex(stripped, _NUMBER)):
        if _all(pc.match_substring_regex(stripped, _COMMA)):
            with_comma = stripped.filter(pc.fill_null(pc.match_substring(stripped, ","), False))
            if _all(pc.match_substring_regex(with_comma, _GROUPED)):
                raise InteractionsError(
                    f"column {name!r} holds numbers such as {with_comma[0].as_py()!r}: write thousands without a "
                    "comma, or decimals with a point"
                )
            stripped = pc.replace_substring(stripped, ",", ".")
        else:
            good = pc.fill_null(pc.match_substring_regex(stripped, _NUMBER), True)
            wrong = pc.is_in(values, distinct.filter(pc.invert(good)))
            example = distinct.filter(pc.invert(good))[0].as_py()
            raise InteractionsError(
                f"column {name!r} must hold numbers: {pc.sum(wrong).as_py()} of {len(values)} values are not, the "
                f"first in row {first_row(wrong)}, such as {_short(example)}; correct them or drop these rows"
            )
    parsed = pc.utf8_ltrim(stripped, "+").cast(pa.float64())
    found = pc.index_in(values, distinct, skip_nulls=False)
    return pa.chunked_array([parsed.take(chunk) for chunk in found.chunks], pa.float64())


def _all(mask: Any) -> bool:
    return pc.all(mask).as_py() is not False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
