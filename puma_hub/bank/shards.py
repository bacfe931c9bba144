"""The rows of a bank in Parquet files, sorted by user id. Row groups are small, so reading one user is cheap."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils.py_utils import convert_file_size_to_int

from puma_hub.bank.columns import as_bank_table, bank_features
from puma_hub.bank.index import joined_ids
from puma_hub.bank.rounding import Rounding
from puma_hub.bank.shard_file import GROUPS_AT_ONCE, ShardFile, rows_in_group
from puma_hub.bank.stored_rows import BankRows
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, PumaHubError
from puma_hub.limits import MAX_FILES, MAX_USERS

DEFAULT_SHARD_SIZE = "500MB"
_IDS_AT_ONCE = 65_536


def shard_rows(rows: BankRows, max_shard_size: int | str) -> int:
    """The number of ``rows`` in a file of that size, at least one.

    Raises:
        ConfigurationError: ``max_shard_size`` is not a size, or so small that there would be too many files.
    """
    count = rows_in(max_shard_size, row_bytes(rows))
    files_of(len(rows), count)
    return count


def files_of(users: int, rows_per_shard: int) -> int:
    """The number of files of so many users, at least one.

    Raises:
        ConfigurationError: it is too large.
    """
    files = max(1, -(-users // rows_per_shard))
    if files > MAX_FILES:
        raise ConfigurationError(
            f"max_shard_size would make {files} files of {users} users, more than {MAX_FILES}; give a larger size"
        )
    return files


def rows_in(max_shard_size: int | str, one: int) -> int:
    """The number of rows of ``one`` bytes each in a file of that size, at least one.

    Raises:
        ConfigurationError: ``max_shard_size`` is not a size.
    """
    try:
        size = convert_file_size_to_int(max_shard_size)
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigurationError(f"max_shard_size must be a size such as '500MB', got {max_shard_size!r}")
    return min(MAX_USERS, max(1, size // one))


def row_bytes(rows: BankRows) -> int:
    """The approximate size of a row in bytes."""
    return max(1, -(-rows.nbytes // max(1, len(rows))))


class ShardWriter:
    """Writes the files of a bank from tables of any length.

    Args:
        schema: the schema of all tables.
        rows_per_shard: rows in each file except the last.
        one: the approximate size of a row in bytes.
        rounding: see :class:`ShardFile`.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, rows_per_shard: int, one: int, rounding: Rounding | None = None
    ) -> None:
        self._folder, self._schema, self._rows_per_shard, self._one = folder, schema, rows_per_shard, one
        self._rounding = rounding
        self._paths: list[Path] = []
        self._file: ShardFile | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows.

        Raises:
            ConfigurationError: there are too many files.
        """
        while len(table):
            file = self._opened()
            part = table.slice(0, self._rows_per_shard - file.rows)
            table = table.slice(len(part))
            file.write(part)
            if file.rows == self._rows_per_shard:
                self.close()

    def finish(self, names: Callable[[int], Sequence[str]]) -> None:
        """Write the remaining rows, and name the files. ``names`` gives paths in the folder for a number of files."""
        if not self._paths:
            self._opened()
        self.close()
        for path, name in zip(self._paths, names(len(self._paths)), strict=True):
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(self._folder / name)

    def close(self) -> None:
        """Close the current file, if there is one."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _opened(self) -> ShardFile:
        if self._file is None:
            if len(self._paths) == MAX_FILES:
                raise ConfigurationError(
                    f"the bank would have more than {MAX_FILES} files; give a larger max_shard_size"
                )
            self._paths.append(self._folder / f"shard-{len(self._paths)}.writing")
            self._file = ShardFile(self._paths[-1], self._schema, self._one, self._rounding)
        return self._file


def write_shards(
    folder: Path,
    names: Sequence[str],
    rows: BankRows,
    order: np.ndarray,
    rows_per_shard: int,
    rounding: Rounding | None = None,
) -> None:
    """Write ``rows`` in ``order``, which sorts them by user id."""
    one = row_bytes(rows)
    writer = ShardWriter(folder, rows.features.arrow_schema, rows_per_shard, one, rounding)
    at_once = rows_in_group(one) * GROUPS_AT_ONCE
    try:
        for start in range(0, len(order), at_once):
            writer.write(rows.take(order[start : start + at_once]).table)
        writer.finish(lambda _: names)
    finally:
        writer.close()


class ShardRows(BankRows):
    """Rows that stay in Parquet files. One row group is read at a time, and only the last one is kept.

    The files stay open: if the bank is replaced on disk, this object still reads the old one.

    Args:
        where: names the bank in messages.

    Raises:
        CheckpointError: a file is damaged, or files do not belong together.
        BankError: the columns are not those of a bank.
    """

    _files: list[pq.ParquetFile]
    _lock: threading.Lock
    _last: tuple[Any, pa.Table]
    _identities: list[tuple[int, int, int]]

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int], where: str) -> None:
        self._paths, self._where = [Path(path) for path in paths], where
        self._open()
        with self._damaged():
            schemas = [file.schema_arrow for file in self._files]
        strange = sum(not schema.equals(schemas[0]) for schema in schemas)
        if strange:
            raise CheckpointError(
                f"{strange} of the {len(schemas)} files of the bank {where} have other columns; {_AGAIN}"
            )
        try:
            features = bank_features(datasets.Features.from_arrow_schema(schemas[0]), shape)
        except BankError as error:
            raise BankError(f"the files of {where} are not a bank: {error}") from None
        self._groups = [
            (shard, group) for shard, file in enumerate(self._files) for group in range(file.num_row_groups)
        ]
        self._is_converted = not schemas[0].equals(features.arrow_schema)
        sizes = [self._files[shard].metadata.row_group(group).num_rows for shard, group in self._groups]
        super().__init__(features, shape, sizes)

    @property
    def dataset(self) -> datasets.Dataset:
        """All rows, read into memory."""
        return self.take(np.arange(len(self))).dataset

    @property
    def nbytes(self) -> int:
        return sum(
            file.metadata.row_group(group).total_byte_size
            for file in self._files
            for group in range(file.num_row_groups)
        )

    @property
    def rows_per_file(self) -> int | None:
        return max(1, int(self._files[0].metadata.num_rows))

    @property
    def stamp(self) -> str | None:
        return repr([(path.name, size, changed) for path, (_, size, changed) in zip(self._paths, self._identities)])

    def ids(self) -> pa.ChunkedArray:
        with self._damaged():
            batches = (
                batch.column(0).cast(pa.large_string())
                for file in self._files
                for batch in file.iter_batches(_IDS_AT_ONCE, columns=["user_id"], use_threads=False)
            )
            return pa.chunked_array([joined_ids(batches, len(self))], pa.large_string())

    def piece(self, number: int, columns: list[str] | None = None) -> pa.Table:
        shard, group = self._groups[number]
        with self._damaged(), self._lock:
            if self._last[0] != (number, columns):  # neighbouring rows are often read one after another
                table = self._files[shard].read_row_group(group, columns=columns, use_threads=False)
                if self._is_converted:
                    features = {
                        name: self.features[name] for name in self.features if name in (columns or table.column_names)
                    }
                    table = as_bank_table(table, datasets.Features(features))
                self._last = (number, columns), table.combine_chunks()
            return self._last[1]

    def prompts(self) -> np.ndarray:
        return self.prompts_at(np.arange(len(self)))

    # Pickled for another process, which opens the files again.

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_files", "_lock", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = state["_identities"]
        self.__dict__.update(state)
        if all(path.is_file() for path in self._paths):
            self._open()
        if vars(self).get("_identities") != before or "_files" not in vars(self):
            raise CheckpointError(f"the files of the bank {self._where} were replaced while it was open; load it again")

    def _open(self) -> None:
        self._last = None, pa.table({})
        self._lock = threading.Lock()  # Arrow's file reader is not thread-safe
        with self._damaged():
            self._files = [pq.ParquetFile(path, page_checksum_verification=True) for path in self._paths]
            self._identities = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, self._paths)]

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except PumaHubError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"a file of the bank {self._where} is damaged ({type(error).__name__}); {_AGAIN}"
            ) from error


_AGAIN = "restore it, load it with force_download=True, or make the bank again"
