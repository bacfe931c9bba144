"""Catalogues: the items that users are asked about, without users, labels or history."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.data.cell_values import as_text, blank
from puma_hub.data.file_kinds import require_kind
from puma_hub.data.rows import codes, column, flat, from_table, require_dataset, take_rows
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from puma_hub.extensions import FORMATS

COLUMNS = ("item_id", "item_text")


def load_catalogue(path: str | Path, *, format: str | None = None) -> datasets.Dataset:
    """Load a catalogue from a csv, json or parquet file; see :func:`check_catalogue` for its columns.

    Args:
        format: where the file's ending does not tell.

    Raises:
        StorageError: there is no such file.
        InteractionsError: the file has no column ``item_text``, or cannot be read.
    """
    place = Path(path)
    if not place.is_file():
        raise StorageError(f"no catalogue at {place}; give a file of {', '.join(FORMATS)} with the column item_text")
    kind = format or require_kind(place)
    options = {"needed": ("item_text",)} if "needed" in FORMATS.options(kind) else {}
    return check_catalogue(from_table(FORMATS.bound(kind, options)(place)))


def check_catalogue(items: datasets.Dataset) -> datasets.Dataset:
    """The items of a catalogue: ``item_id`` and ``item_text`` as strings, each text once.

    Items are numbered where there is no ``item_id``; other columns are left out.

    Raises:
        InteractionsError: there is no column ``item_text``, a cell is empty, or there are no items.
    """
    dataset = flat(require_dataset(items))
    if "item_text" not in dataset.column_names:
        raise InteractionsError(
            f"a catalogue needs the column item_text, found {', '.join(dataset.column_names) or 'none'}; rename yours"
        )
    if not len(dataset):
        raise InteractionsError("the catalogue is empty; give at least one item")
    texts = _text(dataset, "item_text")
    ids = _text(dataset, "item_id") if "item_id" in dataset.column_names else _numbered(len(dataset))
    _, first = np.unique(codes(texts)[0], return_index=True)
    table = pa.table({"item_id": ids, "item_text": texts})
    return take_rows(from_table(table), np.sort(first))


def catalogue_of(interactions: datasets.Dataset, items: int | None = None) -> datasets.Dataset:
    """The items of interactions, those with the most rows first; of several texts of an item, the most frequent one.

    Args:
        items: so many at most; all by default.

    Raises:
        ConfigurationError: ``items`` is below 1.
        InteractionsError: there are no rows, or columns are missing.
    """
    if items is not None and (isinstance(items, bool) or not isinstance(items, int) or items < 1):
        raise ConfigurationError(f"items must be a whole number >= 1, got {items!r}")
    dataset = require_dataset(interactions)
    if missing := [name for name in COLUMNS if name not in dataset.column_names]:
        raise InteractionsError(f"rows need the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing")
    counted = pa.table({name: _text(dataset, name) for name in COLUMNS}).append_column(
        "place", pa.array(np.arange(len(dataset)))
    )
    each = counted.group_by(list(COLUMNS)).aggregate([("place", "count"), ("place", "min")])
    order = [("place_count", "descending"), ("place_min", "ascending")]
    each = each.sort_by(order)
    _, first = np.unique(codes(each.column("item_id"))[0], return_index=True)
    total = counted.group_by("item_id").aggregate([("place", "count")])
    chosen = each.take(pa.array(np.sort(first)))
    rows = total.column("place_count").take(pc.index_in(chosen.column("item_id"), total.column("item_id")))
    chosen = chosen.append_column("rows", rows).sort_by([("rows", "descending"), ("place_min", "ascending")])
    if items is not None:
        chosen = chosen.slice(0, items)
    return check_catalogue(from_table(chosen.select(list(COLUMNS)).combine_chunks()))


def _text(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    found = as_text(column(dataset, name), name, fractions=name == "item_text")
    if empty := blank(found):
        raise InteractionsError(f"column {name!r} is empty in {empty} of {len(found)} items; drop or fill them")
    return found


def _numbered(count: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([f"item-{number}" for number in range(count)], pa.string())])
