"""Adding an item's mean label in the training rows to its text."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.data.held_out import MEANS_IN_TEXTS, with_description
from puma_hub.data.likes import RATING
from puma_hub.data.rows import codes, column, flat, from_table, numbers

_PRIOR_ROWS = 5  # shrinkage: an item's mean is computed with this many further rows of the overall mean
_STEP = 0.2  # rounding of the shown mean: with fewer different texts the LLM has to compute fewer prefixes


def with_item_statistics(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    """Add an item's mean label in ``train``, or its mean rating where clicks were made of ratings, to its text.

    Texts change in every split. The paper's Yelp items show their stars in the same way. A training row shows the mean
    of the item's other training rows, so its text does not reveal its own label. Held-out labels are never used. Items
    without such rows show the overall mean. The words are those of the rating template, so that even an LLM without
    training can continue the pattern.
    """
    labels = numbers(splits["train"], RATING if RATING in splits["train"].column_names else "label")
    item_of, items = codes(column(splits["train"], "item_id"))
    overall = float(labels.mean())
    # The last entry is for items without training rows.
    sums = np.bincount(item_of, labels, minlength=len(items) + 1)
    counts = np.bincount(item_of, minlength=len(items) + 1)
    known = pa.array(items, pa.string())

    def texts(name: str, rows: datasets.Dataset) -> pa.ChunkedArray:
        place = pc.index_in(column(rows, "item_id"), known)
        items = np.asarray(pc.fill_null(place, len(known)), dtype=np.int64)
        total, count = sums[items], counts[items]
        if name == "train":
            total, count = total - labels, count - 1
        mean = (total + _PRIOR_ROWS * overall) / (count + _PRIOR_ROWS)
        return _with_line(column(rows, "item_text"), np.rint(mean / _STEP).astype(np.int64))

    return datasets.DatasetDict(
        {name: with_description(_replaced(rows, texts(name, rows)), MEANS_IN_TEXTS) for name, rows in splits.items()}
    )


def _with_line(plain: pa.ChunkedArray, steps: np.ndarray) -> pa.ChunkedArray:
    shown, which = np.unique(steps, return_inverse=True)
    lines = pa.array([f"\nRating by all users: {step * _STEP:.1f}" for step in shown.tolist()], pa.string())
    chunks, start = [], 0
    for chunk in plain.chunks:
        line = lines.take(pa.array(which[start : start + len(chunk)]))
        chunks.append(pc.binary_join_element_wise(chunk, line, ""))
        start += len(chunk)
    return pa.chunked_array(chunks, pa.string())


def _replaced(rows: datasets.Dataset, texts: pa.ChunkedArray) -> datasets.Dataset:
    plain = flat(rows)
    table = plain.data.table
    table = table.set_column(table.column_names.index("item_text"), "item_text", texts)
    return from_table(table, plain.info)
