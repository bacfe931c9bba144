"""Rows and columns of a dataset, read from its Arrow table: fast, and independent of the dataset's format."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.errors import InteractionsError

# Arrow's text and lists have 32-bit offsets, so one chunk has to stay well below 2 GiB.
_BYTES_AT_ONCE = 256 * 2**20
_RECORDS_AT_ONCE = 10_000


def require_dataset(rows: object) -> datasets.Dataset:
    """Check that ``rows`` are a ``datasets.Dataset``, and return them.

    Raises:
        InteractionsError: they are a DatasetDict, an IterableDataset or something else.
    """
    if isinstance(rows, datasets.Dataset):
        return rows
    advice = "make one with datasets.Dataset.from_pandas, from_dict or from_list"
    if isinstance(rows, (datasets.DatasetDict, datasets.IterableDatasetDict, dict)):
        advice = f"give one split of {', '.join(map(str, rows)) or 'it (it has none)'}, such as rows['train']"
    elif isinstance(rows, datasets.IterableDataset):
        advice = "a stream can be read only once: load it without streaming=True"
    raise InteractionsError(f"interactions must be a datasets.Dataset, got {type(rows).__name__}; {advice}")


def from_table(table: pa.Table, info: datasets.DatasetInfo | None = None) -> datasets.Dataset:
    """A dataset of the table. It gets a random fingerprint, since hashing would pickle the whole table."""
    return datasets.Dataset(table, info=info, fingerprint=secrets.token_hex(8))


def column(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """The Arrow column, in the dataset's order."""
    dataset = require_dataset(rows)
    if dataset._indices is None:
        return dataset.data.table.column(name)
    return _taken(dataset.data.table.select([name]), _order(dataset)).column(0)


def texts(rows: datasets.Dataset, name: str) -> list[str]:
    """A column of text as a list."""
    return column(rows, name).to_pylist()


def numbers(rows: datasets.Dataset, name: str) -> np.ndarray:
    """A column of numbers as float64 ``(N,)``; missing values are NaN."""
    return np.asarray(column(rows, name).to_numpy(), dtype=np.float64)


def records(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """The rows one by one as plain Python values."""
    for batch in flat(rows).data.table.to_batches(max_chunksize=_RECORDS_AT_ONCE):
        yield from batch.to_pylist()


def codes(values: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A text column without nulls as codes ``(N,)`` and its distinct values, in order of first appearance."""
    chunks = values.cast(pa.large_string()).chunks
    if not chunks:
        return np.zeros(0, np.int64), []
    # In one piece: of pieces, as datasets' files hold 1,000 rows each, every one would bring the whole dictionary.
    encoded = pa.concat_arrays(chunks).dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def codes_of_both(first: datasets.Dataset, second: datasets.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of both datasets as codes of its distinct values."""
    both = pa.chunked_array([*column(first, name).chunks, *column(second, name).chunks])
    return np.split(codes(both)[0], [len(first)])  # type: ignore[return-value]


def take_rows(dataset: datasets.Dataset, numbers: Sequence[int] | np.ndarray) -> datasets.Dataset:
    """The rows ``numbers``, in that order, copied into memory. Unlike ``select``, this keeps no index."""
    plain = flat(dataset)
    return from_table(_taken(plain.data.table, np.asarray(numbers, dtype=np.int64)), plain.info)


def flat(dataset: datasets.Dataset) -> datasets.Dataset:
    """The dataset without a format. The index of a ``select``, ``sort`` or ``shuffle`` is applied to its table."""
    if require_dataset(dataset)._indices is None:
        return dataset if dataset.format["type"] is None else from_table(dataset.data, dataset.info)
    return from_table(_taken(dataset.data.table, _order(dataset)), dataset.info)


def _order(dataset: datasets.Dataset) -> np.ndarray:
    return dataset._indices.column(0).to_numpy().astype(np.int64)


def _taken(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    size = table.nbytes
    if size <= _BYTES_AT_ONCE:
        return table.combine_chunks().take(pa.array(numbers))
    parts = -(-size * len(numbers) // (len(table) * _BYTES_AT_ONCE))
    batches = table.to_batches()  # the table's own batches: of a memory-mapped table, only the needed ones are read
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    taken = [_from_batches(batches, starts, part) for part in np.array_split(numbers, max(1, parts)) if len(part)]
    return pa.concat_tables(taken) if taken else table.slice(0, 0)


def _from_batches(batches: list[pa.RecordBatch], starts: np.ndarray, numbers: np.ndarray) -> pa.Table:
    """The rows ``numbers`` of a table in ``batches``, which begin at the rows ``starts``."""
    home = np.searchsorted(starts, numbers, side="right") - 1
    order = np.argsort(home, kind="stable")
    cuts = np.searchsorted(home[order], np.arange(len(batches) + 1))
    found = [
        batch.take(pa.array(numbers[order[first:last]] - start))
        for batch, start, first, last in zip(batches, starts, cuts[:-1], cuts[1:])
        if last > first
    ]
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return pa.Table.from_batches(found).combine_chunks().take(pa.array(back))
