"""The titles of what users took before each row."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.rows import column
from puma_hub.data.split import TimeOrder

_TITLES = 5


def titles_before(rows: datasets.Dataset, took: np.ndarray | None = None) -> pa.ChunkedArray:
    """Of each row the texts of the last five of its user's rows before it, the oldest first.

    Args:
        took: bool ``(n,)``, which rows count as taken; all by default.
    """
    order = TimeOrder.of(rows)
    taken = np.ones(len(rows), dtype=bool) if took is None else took[order.rows]
    places = np.flatnonzero(taken)
    before = np.cumsum(taken) - taken  # how many of `places` lie before each row, in the order of time
    first = np.arange(len(rows)) - order.position  # the first row of the user
    sizes = np.minimum(before - before[first], _TITLES)
    ends = np.cumsum(sizes)
    within = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
    chosen = places[np.repeat(before - sizes, sizes) + within]
    titles = column(rows, "item_text").cast(pa.large_string()).combine_chunks().take(pa.array(order.rows[chosen]))
    lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int64()), titles)
    back_in_order = np.empty(len(rows), dtype=np.int64)
    back_in_order[order.rows] = np.arange(len(rows))
    return pa.chunked_array([lists.take(pa.array(back_in_order))])
