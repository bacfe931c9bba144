"""The columns of interactions and the checks on them."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.rows import flat, take_rows
from puma_hub.errors import InteractionsError
from puma_hub.scorer import Task

REQUIRED_COLUMNS = ("user_id", "item_id", "item_text", "label")
_STRINGS = ("user_id", "item_id", "item_text")
_TIMES = ("int64", "float64", "timestamp[us]", "timestamp[us, tz=UTC]")


def check_interactions(rows: datasets.Dataset, task: Task | None = None) -> datasets.Dataset:
    """Return ``rows`` with ids and texts as strings, labels as float64 and timestamps as numbers or times.

    Raises:
        InteractionsError: a column is missing or empty somewhere, labels are outside the task's values, timestamps have
            no order or histories are not lists.
    """
    if not isinstance(rows, datasets.Dataset):
        raise InteractionsError(f"interactions must be a datasets.Dataset, got {type(rows).__name__}")
    rows = flat(rows)
    missing = [name for name in REQUIRED_COLUMNS if name not in rows.column_names]
    if missing:
        raise InteractionsError(
            f"interactions need the columns {', '.join(REQUIRED_COLUMNS)}; {', '.join(missing)} missing, "
            f"found {', '.join(rows.column_names)}: rename your columns"
        )
    if not len(rows):
        raise InteractionsError("interactions are empty; give at least one row")
    nested = [name for name in REQUIRED_COLUMNS if not isinstance(rows.features[name], datasets.Value)]
    if nested:
        raise InteractionsError(f"columns {', '.join(nested)} must hold single values, found nested ones")
    features = rows.features.copy()
    features.update({name: datasets.Value("string") for name in _STRINGS}, label=datasets.Value("float64"))
    if features != rows.features:
        try:
            rows = rows.cast(features)
        except (ValueError, TypeError, NotImplementedError) as error:  # the last one is Arrow's, for casts it lacks
            reason = str(error).splitlines()[0]
            raise InteractionsError(f"user_id, item_id and item_text must be text, label a number: {reason}") from error
    for name in REQUIRED_COLUMNS:
        column = rows.data.column(name)
        empty = column.null_count
        if name in _STRINGS:
            empty += sum(not value for value in column.to_pylist() if value is not None)
        if empty:
            raise InteractionsError(f"column {name!r} is empty in {empty} of {len(rows)} rows; drop or fill them")
    labels = np.asarray(rows.data.column("label").to_numpy())
    if not np.isfinite(labels).all():
        raise InteractionsError(
            f"{int((~np.isfinite(labels)).sum())} of {len(labels)} labels are NaN or infinite; drop those rows"
        )
    if task is not None:
        task.check_labels(labels)
    if "history" in rows.column_names:
        _check_history(rows.data.column("history").type)
    return _with_times(rows) if "timestamp" in rows.column_names else rows


def _check_history(found: pa.DataType) -> None:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_null)
    if not any(is_kind(found) for is_kind in lists):
        raise InteractionsError(
            f"column 'history' must hold lists of titles, found {found}; csv has no lists, use parquet or json"
        )


def _with_times(rows: datasets.Dataset) -> datasets.Dataset:
    """Rows whose timestamps can be ordered: text is read as numbers, or as times of ISO 8601."""
    column = rows.data.column("timestamp")
    kind, text = column.type, datasets.Value("string")
    empty = column.null_count + sum(value != value or value == "" for value in column.to_pylist())
    if empty:
        raise InteractionsError(
            f"column 'timestamp' is empty in {empty} of {len(rows)} rows; fill them, or leave the column out"
        )
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        return rows
    if rows.features["timestamp"] in (text, datasets.Value("large_string")):
        for number_or_time in _TIMES:
            try:
                return rows.cast_column("timestamp", datasets.Value(number_or_time))
            except ValueError:  # Arrow's errors of parsing
                continue
    raise InteractionsError(
        f"column 'timestamp' must hold numbers or times such as 2024-12-31 23:59:00, found {column[0].as_py()!r}"
    )


def rows_by_user(rows: datasets.Dataset) -> Mapping[str, np.ndarray]:
    """Row numbers of each user, in the dataset's order."""
    users = np.asarray(list(rows["user_id"]), dtype=object)
    order = np.argsort(users, kind="stable")
    cuts = np.flatnonzero(users[order][1:] != users[order][:-1]) + 1
    return {str(users[part[0]]): part for part in np.split(order, cuts) if len(part)}


def of_users(rows: datasets.Dataset, user_ids: list[str]) -> datasets.Dataset:
    """The rows of ``user_ids``, in the dataset's order."""
    wanted = set(user_ids)
    return take_rows(rows, [i for i, user in enumerate(rows["user_id"]) if user in wanted])
