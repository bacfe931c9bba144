"""The rows of a bank, read piece by piece, and the implementation for a table in memory or memory-mapped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.bank.columns import as_bank_table, bank_features, prompt_values, require_finite, to_dataset
from puma_hub.data.rows import flat

_PIECE_ROWS = 16_384
_ONE_CHUNK_BYTES = 64 * 1024 * 1024


class BankRows(ABC):
    """Rows with ``user_id``, ``prompt`` and further columns, in pieces. One piece is in memory at a time.

    Args:
        features: the features of all columns, from :func:`bank_features`.
        shape: ``(l, d)`` of a prompt.
        sizes: the number of rows in each piece.
    """

    _checked = False
    """Whether all values are known to be finite. If not, values are checked each time they are read."""

    def __init__(self, features: datasets.Features, shape: tuple[int, int], sizes: Sequence[int]) -> None:
        self.features = features
        self.shape = shape
        self._ends = np.cumsum(np.asarray(sizes, np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    @abstractmethod
    def dataset(self) -> datasets.Dataset:
        """All rows as a data set."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The approximate size of all rows in bytes."""

    @abstractmethod
    def ids(self) -> pa.ChunkedArray:
        """The column of user ids alone, as strings of any width."""

    @abstractmethod
    def piece(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """One piece, each column in one chunk."""

    @abstractmethod
    def prompts(self) -> np.ndarray:
        """All prompts, read-only float32 ``(N, l, d)``."""

    def values(self, number: int, table: pa.Table, local: np.ndarray | None = None) -> np.ndarray:
        """The checked prompts of piece ``number``, float32 ``(n, l, d)``: of its rows ``local``, or all without a copy.

        Raises:
            BankError: a prompt is not finite.
        """
        start = self._start(number)
        prompts = prompt_values(table.column("prompt").chunk(0), self.shape, start)
        if local is not None:
            prompts = prompts[local]
        if not self._checked:
            require_finite(prompts, range(start, start + len(prompts)) if local is None else start + local)
        return prompts

    def prompts_at(self, numbers: np.ndarray) -> np.ndarray:
        """The checked prompts of the rows ``numbers``, in that order; float32 ``(n, l, d)``."""
        result = np.empty((len(numbers), *self.shape), np.float32)
        for number, local, positions in self._located(numbers):
            result[positions] = self.values(number, self.piece(number, ["prompt"]), local)
        return result

    def further_columns(self, numbers: np.ndarray) -> pa.Table | None:
        """The columns besides ids and prompts of the rows ``numbers``, in that order; None if there are none."""
        names = [name for name in self.features if name not in ("user_id", "prompt")]
        if not names:
            return None
        schema = datasets.Features({name: self.features[name] for name in names}).arrow_schema
        found, places = [schema.empty_table()], [np.arange(0)]
        for number, local, positions in self._located(numbers):
            found.append(self.piece(number, names).take(pa.array(local)))
            places.append(positions)
        order = np.argsort(np.concatenate(places))
        return pa.concat_tables(found).combine_chunks().take(pa.array(order))

    @property
    def rows_per_file(self) -> int | None:
        """How many rows each file but the last has; None where rows are in memory."""
        return None

    @property
    def stamp(self) -> str | None:
        """What tells these rows from what may stand in their files later; None where they are in memory."""
        return None

    def take(self, numbers: np.ndarray) -> TableRows:
        """The checked rows ``numbers``, in that order, copied into memory."""
        found, places = [self.features.arrow_schema.empty_table()], []
        for number, local, positions in self._located(numbers):
            piece = self.piece(number)
            self.values(number, piece, local)
            found.append(piece.take(pa.array(local)))
            places.append(positions)
        table = pa.concat_tables(found)
        order = np.concatenate(places) if places else np.arange(0)
        if not (np.diff(order) > 0).all():
            table = table.combine_chunks().take(pa.array(np.argsort(order)))
        elif table.nbytes <= _ONE_CHUNK_BYTES:
            # Prompts in one chunk are read without a copy. Combining doubles the memory for a moment.
            table = table.combine_chunks()
        return TableRows(to_dataset(table, self.features), self.shape, checked=True)

    def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids and prompts of one piece after another."""
        for number in range(len(self._ends)):
            table = self.piece(number, ["user_id", "prompt"])
            if len(table):
                yield table.column("user_id").to_pylist(), self.values(number, table)

    def _start(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def _located(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each piece with some of ``numbers``: the piece, the rows in it, and their positions in ``numbers``."""
        order = np.argsort(numbers, kind="stable")
        rising = numbers[order]
        owners = np.searchsorted(self._ends, rising, side="right")
        limits = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(rising)]
        for first, last in pairwise(limits if len(rising) else []):
            number = int(owners[first])
            yield number, rising[first:last] - self._start(number), order[first:last]


class TableRows(BankRows):
    """A data set in memory or memory-mapped.

    Args:
        checked: whether all values are known to be finite. If not, values in memory are checked at once, memory-mapped
            values when they are read.

    Raises:
        BankError: columns or values are not valid for a bank.
    """

    def __init__(self, dataset: datasets.Dataset, shape: tuple[int, int], checked: bool = False) -> None:
        features = bank_features(dataset.features, shape)
        dataset = flat(dataset)
        if features != dataset.features:
            dataset = to_dataset(as_bank_table(dataset.data.table, features), features)
        self._dataset = dataset
        # Batches end at the chunk ends of all columns, so that each batch has the same rows of every column.
        self._batches = self.table.to_batches(max_chunksize=_PIECE_ROWS)
        super().__init__(features, shape, [len(batch) for batch in self._batches])
        if not checked and not dataset.cache_files:
            for number in range(len(self._batches)):
                self.values(number, self.piece(number, ["prompt"]))
        self._checked = checked or not dataset.cache_files

    @property
    def dataset(self) -> datasets.Dataset:
        return self._dataset

    @property
    def table(self) -> pa.Table:
        return self._dataset.data.table

    @property
    def nbytes(self) -> int:
        return int(self.table.nbytes)

    def ids(self) -> pa.ChunkedArray:
        return self.table.column("user_id")

    def piece(self, number: int, columns: list[str] | None = None) -> pa.Table:
        table = pa.Table.from_batches([self._batches[number]])
        return table if columns is None else table.select(columns)

    def prompts(self) -> np.ndarray:
        column = self.table.column("prompt")
        if column.num_chunks != 1:
            return self.prompts_at(np.arange(len(self)))
        prompts = prompt_values(column.chunk(0), self.shape, 0)
        if not self._checked:
            require_finite(prompts, range(len(prompts)))
        return prompts
