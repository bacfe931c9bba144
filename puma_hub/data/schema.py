"""Checking the columns of interactions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.data.cell_values import as_numbers, as_text, blank, decoded, is_text
from puma_hub.data.rows import codes, column, flat, from_table, require_dataset, take_rows
from puma_hub.data.times import as_times
from puma_hub.errors import InteractionsError

if TYPE_CHECKING:
    from puma_hub.tasks import Task

REQUIRED_COLUMNS = ("user_id", "item_id", "item_text", "label")
OPTIONAL_COLUMNS = ("timestamp", "history")


def check_interactions(rows: datasets.Dataset, task: Task | None = None, *, labels: bool = True) -> datasets.Dataset:
    """Return ``rows`` with ids and texts as strings, labels as float64, timestamps as numbers or times.

    The dataset's format is ignored; the result has no format.

    Args:
        labels: false lets rows come without the column ``label``.

    Raises:
        InteractionsError: a column is missing or has empty values, labels are outside the task's values, timestamps
            cannot be ordered, or histories are not lists.
    """
    dataset = require_dataset(rows)
    require_columns(dataset.column_names, [name for name in REQUIRED_COLUMNS if labels or name != "label"])
    if not len(dataset):
        raise InteractionsError("interactions are empty; give at least one row")
    dataset = flat(dataset)
    table = dataset.data.table
    features = dataset.features.copy()
    for name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS:
        if name in table.column_names:
            found = _named_classes(table.column(name), features[name], name)
            changed = _checked(found, name, task)
            if changed is not table.column(name):
                table = table.set_column(table.column_names.index(name), name, changed)
                features[name] = datasets.Features.from_arrow_schema(pa.schema([(name, changed.type)]))[name]
    if table is dataset.data.table:
        return dataset
    info = dataset.info.copy()
    info.features = features
    return from_table(table.replace_schema_metadata(None), info)


def require_columns(found: Iterable[str], wanted: Sequence[str] = REQUIRED_COLUMNS) -> None:
    """Check that all ``wanted`` columns are in ``found``.

    Raises:
        InteractionsError: a column is missing. The message lists similar names.
    """
    names = list(found)
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    plain = {plain_column_name(name): name for name in names}
    near = [f"{plain[plain_column_name(name)]!r} is {name}" for name in missing if plain_column_name(name) in plain]
    advice = f"rename: {', '.join(near)}" if near else "rename your columns"
    raise InteractionsError(
        f"rows need the columns {', '.join(wanted)}; {', '.join(missing)} missing, "
        f"found {', '.join(names) or 'none'}: {advice}"
    )


def plain_column_name(name: str) -> str:
    """The name in lower case without blanks and punctuation, to recognise other spellings."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _named_classes(values: pa.ChunkedArray, feature: object, name: str) -> pa.ChunkedArray:
    """A column of class numbers as class names."""
    if not isinstance(feature, datasets.ClassLabel):
        return values
    names = pa.array(feature.names, pa.string())
    if name == "label":
        try:
            names = names.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise InteractionsError(
                f"column 'label' is a ClassLabel with the names {', '.join(feature.names[:5])}; make it the numbers "
                "of the task, for instance with rows.cast_column('label', Value('int64')) if the class numbers are the "
                "labels"
            ) from error
    outside = pc.fill_null(pc.or_(pc.less(values, 0), pc.greater_equal(values, len(names))), False)
    values = pc.if_else(outside, pa.scalar(None, values.type), values)  # datasets writes a missing class as -1
    return pa.chunked_array([names.take(chunk) for chunk in values.chunks], names.type)


def _checked(values: pa.ChunkedArray, name: str, task: Task | None) -> pa.ChunkedArray:
    if name == "timestamp":
        return as_times(values)
    if name == "history":
        _check_history(values.type)
        return values
    if name == "label":
        labels = values if values.type == pa.float64() else as_numbers(values, name)
        _check_labels(labels, task)
        return labels
    text = as_text(values, name, fractions=name == "item_text")
    empty = blank(text)
    if empty:
        raise InteractionsError(f"column {name!r} is empty in {empty} of {len(text)} rows; drop or fill them")
    return text


def _check_labels(labels: pa.ChunkedArray, task: Task | None) -> None:
    if labels.null_count:
        raise InteractionsError(
            f"column 'label' is empty in {labels.null_count} of {len(labels)} rows; drop or fill them"
        )
    array = np.asarray(labels.to_numpy())
    if not np.isfinite(array).all():
        raise InteractionsError(
            f"{int((~np.isfinite(array)).sum())} of {len(array)} labels are NaN or infinite; drop those rows"
        )
    if task is not None:
        task.check_labels(array)


def _check_history(found: pa.DataType) -> None:
    if pa.types.is_null(found):
        return
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(found) for is_kind in lists):
        raise InteractionsError(
            f"column 'history' must hold lists of titles, found {found}; csv has no lists, use parquet or json"
        )
    inner = found.value_type
    if not (is_text(inner) or pa.types.is_null(inner) or pa.types.is_dictionary(inner)):
        raise InteractionsError(f"column 'history' must hold lists of titles, found lists of {inner}; give titles")


def rows_by_user(rows: datasets.Dataset) -> Mapping[str, np.ndarray]:
    """Row numbers of each user, in the dataset's order. Users are in order of first appearance."""
    numbers, names = codes(_ids(rows, "user_id"))
    order = np.argsort(numbers, kind="stable")
    cuts = np.cumsum(np.bincount(numbers, minlength=len(names)))[:-1]
    return dict(zip(names, np.split(order, cuts))) if names else {}


def of_users(rows: datasets.Dataset, user_ids: Iterable[str], by: str = "user_id") -> datasets.Dataset:
    """The rows of ``user_ids``, in the dataset's order; those of items with ``by="item_id"``.

    Raises:
        InteractionsError: an id is not text.
    """
    try:
        wanted = pc.is_in(_ids(rows, by), pa.array(list(user_ids), pa.string()))
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InteractionsError(f"user ids must be text: {error}; give a list of strings") from error
    return take_rows(rows, np.flatnonzero(np.asarray(wanted)))


def _ids(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return as_text(decoded(column(rows, name)), name)
