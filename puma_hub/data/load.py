"""Loading interactions by name or from files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from puma_hub.data.cache import data_folder
from puma_hub.data.csv_file import read_csv
from puma_hub.data.files import open_bytes, require_kind
from puma_hub.data.folders import SPLITS, files_by_split
from puma_hub.data.held_out import among, row_hashes
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.json_file import read_json
from puma_hub.data.movielens import read_movielens
from puma_hub.data.rows import codes, column, from_table
from puma_hub.data.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, check_interactions
from puma_hub.data.split import chronological_split, most_recent, sample_users
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError

if TYPE_CHECKING:
    from puma_hub.tasks import Task

logger = logging.getLogger(__name__)

_READERS: dict[str, Callable[[str | Path], datasets.Dataset]] = {"movielens-100k": read_movielens}
_PARQUET = b"PAR1"
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # the row numbers that pandas writes


def load_interactions(
    name_or_path: str | Path,
    *,
    folder: str | Path | None = None,
    task: Task | None = None,
    users: int | None = None,
    rows_per_user: int | None = None,
    held_out: float = 0.2,
    item_statistics: bool = False,
    seed: int = 42,
    separator: str | None = None,
    encoding: str | None = None,
    columns: Sequence[str] | None = None,
) -> datasets.DatasetDict:
    """Load interactions as ``train`` and ``validation``, the last rows of each user held out.

    The columns are ``user_id``, ``item_id``, ``item_text`` and ``label``, and if there are any, ``timestamp`` (numbers,
    times, or text of ISO 8601) and ``history`` (lists of titles, the oldest first, which csv cannot hold). Ids and
    texts are read as they stand. Files may be compressed (.gz, .bz2, .xz, .zst).

    Args:
        name_or_path: ``movielens-100k``; a csv, tsv, parquet, json or jsonl file; a folder with ``train`` and
            ``validation`` files, which are then taken as they are; or a folder of ``Dataset.save_to_disk``.
        folder: where a named data set's files are; for ``movielens-100k`` the cache of ``puma-hub fetch``.
        task: checks the labels.
        users: draw this many users at random with ``seed``.
        rows_per_user: keep the most recent rows of each user.
        item_statistics: add each item's mean label in ``train`` to its text.
        held_out: the share of each user's rows, the last in time, that become ``validation``.
        separator: of csv; ``,`` ``;`` tab ``::`` and ``|`` are told apart by the header.
        encoding: of csv and json, if it is not UTF-8 and there is no byte order mark.
        columns: the names of a csv file's columns, in order, where its first line does not hold them.

    Raises:
        InteractionsError: columns or labels are wrong.
        StorageError: a file is missing or cannot be read.
        ConfigurationError: an unknown name, or an option out of range.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise ConfigurationError(
            f"interactions are loaded by the path of a file or folder, got {type(name_or_path).__name__}; write it to "
            "a parquet file, or split a dataset with chronological_split(check_interactions(rows))"
        )
    name = os.fsdecode(name_or_path)
    if "://" in name:
        raise StorageError(f"{name} is an address; download the file and give its path")
    if name in _READERS:
        loaded: datasets.Dataset | dict[str, datasets.Dataset] = _READERS[name](folder or data_folder(name))
    else:
        loaded = _Files(separator, encoding, columns).load(Path(name))
    if isinstance(loaded, datasets.Dataset):
        rows = check_interactions(loaded, task)
        del loaded
        if users is not None:
            rows = sample_users(rows, users, seed)
        if rows_per_user is not None:
            rows = most_recent(rows, rows_per_user)
        splits = chronological_split(rows, held_out)
    else:
        if users is not None or rows_per_user is not None:
            raise ConfigurationError("these interactions are split already; users and rows_per_user need one file")
        splits = datasets.DatasetDict({name: check_interactions(rows, task) for name, rows in loaded.items()})
    _tell(splits)
    return with_item_statistics(splits) if item_statistics else splits


def _tell(splits: datasets.DatasetDict) -> None:
    """Log what a reader of figures on these splits has to know."""
    train, held_out = splits["train"], splits["validation"]
    everybody = len(codes(column(train, "user_id"))[1])
    with_rows = len(codes(column(held_out, "user_id"))[1])
    if not len(held_out):
        logger.warning("no row is held out: each of the %d users has a single row", everybody)
        return
    if with_rows < everybody:
        logger.info("%d of %d users have held-out rows; the others have a single row", with_rows, everybody)
    repeated = int(among(row_hashes(held_out), row_hashes(train)).sum())
    if repeated:
        logger.warning(
            "%d of %d held-out rows stand among the training rows too (same user, item, label and time); "
            "drop repeated rows if they are no new opinions",
            repeated,
            len(held_out),
        )


class _Files:
    """Files on disk, read with one separator, encoding and list of columns."""

    def __init__(self, separator: str | None, encoding: str | None, columns: Sequence[str] | None) -> None:
        self._separator, self._encoding, self._columns = separator, encoding, columns

    def load(self, path: Path) -> datasets.Dataset | dict[str, datasets.Dataset]:
        if path.is_dir():
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                return _saved(path)
            files = files_by_split(path)
            if isinstance(files, list):
                return self._table(files)
            return {split: self._table(paths) for split, paths in files.items()}
        if not path.exists():
            raise StorageError(
                f"no interactions at {path}; give a csv, parquet or json file, a folder or one of {', '.join(_READERS)}"
            )
        return self._table([path])

    def _table(self, paths: list[Path]) -> datasets.Dataset:
        tables = [self._read(path) for path in paths]
        try:
            table = pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InteractionsError(f"the files of {paths[0].parent} differ in their columns: {error}") from error
        return from_table(_readable(table, paths[0]))

    def _read(self, path: Path) -> pa.Table:
        kind = require_kind(path)
        if kind != "csv" and (self._separator or self._columns):
            raise ConfigurationError(f"separator and columns are of csv files, {path} is {kind}; leave them out")
        if kind == "csv":
            return read_csv(path, separator=self._separator, encoding=self._encoding, columns=self._columns)
        if kind == "json":
            return read_json(path, encoding=self._encoding)
        return _parquet(path)


def _readable(table: pa.Table, path: Path) -> pa.Table:
    """The columns that a dataset can hold, without the row numbers of pandas."""
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InteractionsError(f"{path} names the columns {', '.join(repeated)} more than once; rename them")
    unknown = []
    for field in table.schema:
        try:
            datasets.Features.from_arrow_schema(pa.schema([field]))
        except ValueError as error:
            if field.name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS:
                raise InteractionsError(
                    f"column {field.name!r} must hold text or numbers, found values of type {field.type}; make it text"
                ) from error
            unknown.append(field.name)
    if unknown:
        logger.warning("%s: the columns %s are of types that datasets lacks and are left out", path, ", ".join(unknown))
    return table.drop_columns([name for name in names if name in unknown or _INDEX.fullmatch(name)])


def _parquet(path: Path) -> pa.Table:
    try:
        with open_bytes(path) as file:
            if file.peek(4)[:4] == _PARQUET:  # type: ignore[attr-defined]
                return pq.ParquetFile(str(path), memory_map=True).read()
            return pq.ParquetFile(pa.BufferReader(file.read())).read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise InteractionsError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error


def _saved(path: Path) -> datasets.Dataset | dict[str, datasets.Dataset]:
    """What ``save_to_disk`` wrote."""
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InteractionsError(f"cannot read {path} as a saved dataset: {str(error).splitlines()[0]}") from error
    if isinstance(found, datasets.Dataset):
        return found
    missing = [name for name in SPLITS if name not in found]
    if missing:
        raise InteractionsError(f"{path} needs the splits train and validation, found {', '.join(found) or 'none'}")
    return {name: found[name] for name in SPLITS}
