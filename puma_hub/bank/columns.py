"""The columns of a bank: their types, and the values of its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.rows import from_table
from puma_hub.errors import BankError

_ROWS_AT_ONCE = 4096


def without_nulls(schema: pa.Schema) -> pa.Schema:
    """The schema of a bank, saying that ids and prompts hold no nulls: prompts are then read faster."""
    for name in ("user_id", "prompt"):
        place = schema.get_field_index(name)
        field = schema.field(place).with_nullable(False)
        if name == "prompt":
            values = field.type.value_field.with_nullable(False)
            field = field.with_type(pa.list_(values, field.type.list_size))
        schema = schema.set(place, field)
    return schema


def to_dataset(table: pa.Table, features: datasets.Features) -> datasets.Dataset:
    """The table as a data set of these features."""
    return from_table(table, datasets.DatasetInfo(features=features))


def bank_features(found: datasets.Features, shape: tuple[int, int]) -> datasets.Features:
    """The features of a bank with columns ``found``, in their order: ids as strings, prompts as lists of float32.

    Raises:
        BankError: a column is missing, or cannot be converted.
    """
    missing = [name for name in ("user_id", "prompt") if name not in found]
    if missing:
        raise BankError(f"a bank needs the columns user_id and prompt; {list(found)} lack {', '.join(missing)}")
    string, prompt = datasets.Value("string"), _prompt_feature(shape)
    types = found.arrow_schema
    ids = types.field("user_id").type
    if not (pa.types.is_string(ids) or pa.types.is_large_string(ids) or pa.types.is_string_view(ids)):
        raise _wrong("user_id", string, found["user_id"], shape)
    kind = types.field("prompt").type
    lists = (pa.FixedSizeListType, pa.ListType, pa.LargeListType)
    length = kind.list_size if isinstance(kind, pa.FixedSizeListType) else prompt.length
    if not isinstance(kind, lists) or not pa.types.is_floating(kind.value_type) or length != prompt.length:
        raise _wrong("prompt", prompt, found["prompt"], shape)
    return datasets.Features({**found, "user_id": string, "prompt": prompt})


def as_bank_table(table: pa.Table, features: datasets.Features) -> pa.Table:
    """The table with the columns, order and types of ``features``. Columns of other types are copied.

    Raises:
        BankError: prompts have another length.
    """
    place = table.schema.get_field_index("prompt")
    if place >= 0 and table.schema.field(place).type != features.arrow_schema.field("prompt").type:
        table = table.set_column(place, "prompt", _fixed(table.column(place), features["prompt"]))
    return table.select(list(features)).cast(features.arrow_schema)


def _fixed(prompts: pa.ChunkedArray, feature: datasets.List) -> pa.ChunkedArray:
    kind = pa.list_(pa.float32(), feature.length)
    parts = []
    for chunk in prompts.chunks:
        if chunk.null_count:
            raise BankError("the columns user_id and prompt must not hold nulls; drop those rows")
        values = chunk.flatten()
        if len(values) != len(chunk) * feature.length or (
            not isinstance(chunk, pa.FixedSizeListArray)
            and len(chunk)
            and not (chunk.value_lengths().to_numpy() == feature.length).all()
        ):
            raise BankError(
                f"column 'prompt' must be {feature}, found lists of other lengths; give all prompts one shape"
            )
        parts.append(pa.FixedSizeListArray.from_arrays(values.cast(pa.float32()), feature.length))
    return pa.chunked_array(parts, kind)


def prompt_values(chunk: pa.FixedSizeListArray, shape: tuple[int, int], first: int) -> np.ndarray:
    """The prompts of a chunk, read-only float32 ``(n, l, d)``, without a copy. They may be NaN or infinite.

    Args:
        first: the number of the chunk's first row in the bank, for messages.

    Raises:
        BankError: a prompt or a value in a prompt is null.
    """
    if chunk.null_count:
        raise BankError("the columns user_id and prompt must not hold nulls; drop those rows")
    values = chunk.flatten()  # respects the offset of a slice, unlike ``chunk.values``
    if values.null_count:
        row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // (shape[0] * shape[1])
        raise BankError(f"the prompt in row {row} holds nulls; remove that user or train the prompt again")
    prompts: np.ndarray = values.to_numpy(zero_copy_only=True).reshape(-1, *shape)
    return prompts


def require_finite(prompts: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
    """Check that prompts ``(N, l, d)`` are finite. ``rows`` are their row numbers in the bank.

    Raises:
        BankError: a value is not finite.
    """
    if not len(prompts) or np.isfinite([prompts.min(), prompts.max()]).all():  # both are NaN where one value is
        return
    for start in range(0, len(prompts), _ROWS_AT_ONCE):
        finite = np.isfinite(prompts[start : start + _ROWS_AT_ONCE]).all(axis=(1, 2))
        if not finite.all():
            raise BankError(
                f"the prompt in row {rows[start + int(np.argmin(finite))]} holds NaN or infinite values; "
                "remove that user or train the prompt again"
            )


def _prompt_feature(shape: tuple[int, int]) -> datasets.List:
    return datasets.List(datasets.Value("float32"), length=shape[0] * shape[1])


def _wrong(name: str, expected: object, found: object, shape: tuple[int, int]) -> BankError:
    return BankError(
        f"column {name!r} must be {expected} for prompts of shape {shape}, found {found}; cast the column or use "
        "PromptBank.from_arrays"
    )


def dataset_of_arrays(ids: list[str], prompts: np.ndarray) -> datasets.Dataset:
    """A data set of ids and prompts float32 ``(N, l, d)``. It shares the memory of a read-only array.

    Raises:
        BankError: an id cannot be written as UTF-8.
    """
    try:
        users = pa.array(ids, pa.string())
    except UnicodeEncodeError:
        strange = [row for row, user in enumerate(ids) if any("\ud800" <= letter <= "\udfff" for letter in user)]
        raise BankError(
            f"{len(strange)} user ids hold half of a surrogate pair and cannot be written as UTF-8 (the first in row "
            f"{strange[0]}); decode them properly"
        ) from None
    table = table_of_arrays(users, prompts)
    return to_dataset(table, datasets.Features.from_arrow_schema(table.schema))


def table_of_arrays(ids: pa.Array, prompts: np.ndarray, further: pa.Table | None = None) -> pa.Table:
    """A bank's rows of ids, prompts float32 ``(N, l, d)`` and ``further`` columns, with the schema of their features.

    It shares the memory of a read-only array.
    """
    _, length, size = prompts.shape
    # Writing into a shared array later would change the bank.
    values = (np.array if prompts.flags.writeable else np.ascontiguousarray)(prompts, np.float32).reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), length * size)
    known = datasets.Features({"user_id": datasets.Value("string"), "prompt": _prompt_feature((length, size))})
    table = pa.table({"user_id": ids.cast(pa.string()), "prompt": column})
    if further is not None:
        for name in further.column_names:
            table = table.append_column(further.schema.field(name), further.column(name))
        known = datasets.Features({**known, **datasets.Features.from_arrow_schema(further.schema)})
    return table.cast(known.arrow_schema)
