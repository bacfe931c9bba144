"""Rows of a dataset as a table of its own."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa


def take_rows(dataset: datasets.Dataset, numbers: Sequence[int] | np.ndarray) -> datasets.Dataset:
    """The rows ``numbers``, in that order, copied into memory; unlike ``select``, with no index behind them."""
    table = flat(dataset).data.table.take(pa.array(numbers, pa.int64()))
    return datasets.Dataset(table, info=dataset.info)


def flat(dataset: datasets.Dataset) -> datasets.Dataset:
    """The dataset with the index of a ``select``, ``sort`` or ``shuffle`` applied to its table."""
    if dataset._indices is None:
        return dataset
    table = dataset.data.table.take(dataset._indices.column(0))
    return datasets.Dataset(table, info=dataset.info)
