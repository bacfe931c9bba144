"""Loading interactions by name or from files."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa

from puma_hub.data.biases import with_biases
from puma_hub.data.cache import data_folder
from puma_hub.data.clicks import with_negatives
from puma_hub.data.file_kinds import plain_name, require_kind
from puma_hub.data.folders import SPLITS, files_by_split
from puma_hub.data.held_out import among, row_hashes
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.likes import with_likes
from puma_hub.data.raw_files import RawRows
from puma_hub.data.rows import codes, column, from_table
from puma_hub.data.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, check_interactions, require_columns
from puma_hub.data.split import chronological_split, most_recent, sample_users, sample_users_of_splits
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError, shown
from puma_hub.extensions import DATASETS, FORMATS

if TYPE_CHECKING:
    from puma_hub.tasks import Task

logger = logging.getLogger(__name__)

_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # the row numbers that pandas writes


def load_interactions(
    name_or_path: str | Path,
    *,
    folder: str | Path | None = None,
    format: str | None = None,
    task: Task | None = None,
    users: int | None = None,
    rows_per_user: int | None = None,
    held_out: float = 0.2,
    item_statistics: bool = False,
    biases: bool = False,
    negatives: int | None = None,
    likes_from: float | None = None,
    seed: int = 42,
    **options: Any,
) -> datasets.DatasetDict:
    """Load interactions, split into ``train`` and ``validation``, the last rows of each user.

    Required columns are ``user_id``, ``item_id``, ``item_text`` and ``label``. Optional columns are ``timestamp``
    (numbers, times, or ISO 8601 text) and ``history`` (lists of titles, oldest first; not in csv). Ids and texts are
    not changed. Files may be compressed (.gz, .bz2, .xz, .zst).

    Args:
        name_or_path: one of these: the name of a data set, such as ``movielens-100k`` or ``amazon-movies``; a csv,
            tsv, parquet, json or jsonl file; a folder with ``train`` and ``validation`` files, which are not split
            again; a folder of ``Dataset.save_to_disk``.
        folder: the folder with a named data set's files, or its archive; ``data/NAME`` in the cache of ``puma-hub
            fetch`` by default.
        task: the task whose values the labels must have.
        users: draw this many users at random with ``seed``.
        rows_per_user: keep only this many of the most recent rows of each user.
        item_statistics: add each item's mean label in ``train`` to its text.
        biases: add the column ``bias``, see :func:`puma_hub.data.with_biases`.
        negatives: make every row a click, with so many rows without one, see :func:`puma_hub.data.with_negatives`.
        likes_from: make ratings from this one up clicks, and lower ones none, see :func:`puma_hub.data.with_likes`.
        held_out: the share of each user's rows that become ``validation``. These are the last in time.
        format: ``csv``, ``json`` or ``parquet``, if a file's ending does not show it.
        options: options of the data set, which are its filters (``puma-hub data`` lists them), or of the file format.
            csv has ``separator`` (by default ``,`` ``;`` tab ``::`` or
            ``|``, detected from the header), ``encoding`` (by default that of the byte order mark, or UTF-8) and
            ``columns``, the column names in order, for files without a header. json has ``encoding``.

    Raises:
        InteractionsError: columns or labels are wrong.
        StorageError: a file is missing or cannot be read.
        ConfigurationError: an option is unknown or out of range.
    """
    return split_interactions(
        read_interactions(name_or_path, folder=folder, format=format, **options),
        task=task,
        users=users,
        rows_per_user=rows_per_user,
        held_out=held_out,
        item_statistics=item_statistics,
        biases=biases,
        negatives=negatives,
        likes_from=likes_from,
        seed=seed,
    )


def split_interactions(
    read: RawRows,
    *,
    task: Task | None = None,
    users: int | None = None,
    rows_per_user: int | None = None,
    held_out: float = 0.2,
    item_statistics: bool = False,
    biases: bool = False,
    negatives: int | None = None,
    likes_from: float | None = None,
    seed: int = 42,
) -> datasets.DatasetDict:
    """What was read as ``train`` and ``validation``; arguments and errors are those of :func:`load_interactions`."""
    loaded = read.rows
    del read  # nothing else may keep the rows in memory
    if negatives is not None and likes_from is not None:
        raise ConfigurationError("negatives makes every row a click, and likes_from only some; leave one of them out")
    of_clicks = negatives is not None or likes_from is not None
    of_labels = None if of_clicks else task
    everything: datasets.Dataset | None = None
    if isinstance(loaded, datasets.Dataset):
        rows = check_interactions(loaded, of_labels)
        del loaded
        if users is not None:
            rows = sample_users(rows, users, seed)
        everything = rows if negatives is not None else None
        if rows_per_user is not None:
            rows = most_recent(rows, rows_per_user)
        splits = chronological_split(rows, held_out)
    else:
        if rows_per_user is not None:
            raise ConfigurationError("these interactions are split already; rows_per_user needs them in one")
        splits = datasets.DatasetDict({name: check_interactions(rows, of_labels) for name, rows in loaded.items()})
        if users is not None:
            splits = sample_users_of_splits(splits, users, seed)
    if negatives is not None:
        splits = with_negatives(splits, negatives=negatives, known=everything, seed=seed)
    if likes_from is not None:
        splits = with_likes(splits, at_least=likes_from)
    if of_clicks and task is not None:
        task.check_labels([0.0, 1.0])
    _log_splits(splits)
    if biases:
        splits = with_biases(splits, seed=seed)
    return with_item_statistics(splits) if item_statistics else splits


def read_interactions(
    name_or_path: str | Path, *, folder: str | Path | None = None, format: str | None = None, **options: Any
) -> RawRows:
    """The rows of a data set by name, of a file or of a folder, as they are: unchecked, and not split if they were not.

    The arguments are those of :func:`load_interactions`.

    Raises:
        InteractionsError: a file holds something else.
        StorageError: a file is missing or cannot be read.
        ConfigurationError: an option is unknown or out of range.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise ConfigurationError(
            f"interactions are loaded from the path of a file or folder, got {type(name_or_path).__name__}; write it "
            "to a parquet file, or split a dataset with chronological_split(check_interactions(rows))"
        )
    name = os.fsdecode(name_or_path)
    if "://" in name:
        raise StorageError(f"{name} is a URL; download the file and give its path")
    if name not in DATASETS:
        if folder is not None:
            raise ConfigurationError(
                f"{shown(name)} is no data set by name{_near(name)}; folder is of one, leave it out"
            )
        try:
            found = _Files(format, options).load(Path(name))
            for rows in found.values() if isinstance(found, dict) else [found]:
                require_columns(rows.column_names)
            return RawRows(found)
        except (InteractionsError, StorageError) as error:
            raise type(error)(f"{error}{_owner(Path(name))}") from error
    if format is not None:
        raise ConfigurationError(f"{name} is a data set with its own file format; leave format={format!r} out")
    loaded = DATASETS.bound(name, options)(folder or data_folder(name))
    if not isinstance(loaded, RawRows):
        loaded = RawRows(loaded)
    for what, count in loaded.counts.items():
        if count and what.startswith("malformed"):
            logger.warning("%s: %d %s are left out", name, count, what.replace("_", " "))
    return loaded


def _owner(path: Path) -> str:
    """A hint for a publisher's file that was given as if it held interactions."""
    owner = DATASETS.by_file(plain_name(path).name) if path.is_file() else None
    if owner is None:
        return ""
    return f"; if it is the file of {owner}, name that, and folder={str(path.parent)!r} (--folder {path.parent})"


def _near(name: str) -> str:
    """Names of data sets that may be meant."""
    near = difflib.get_close_matches(name.lower(), DATASETS, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _log_splits(splits: datasets.DatasetDict) -> None:
    """Log facts that matter for results on these splits."""
    train, held_out = splits["train"], splits["validation"]
    users = len(codes(column(train, "user_id"))[1])
    with_rows = len(codes(column(held_out, "user_id"))[1])
    if not len(held_out):
        logger.warning("no row is held out: each of the %d users has a single row", users)
        return
    if with_rows < users:
        logger.info("%d of %d users have held-out rows; the others have a single row", with_rows, users)
    repeated = int(among(row_hashes(held_out), row_hashes(train)).sum())
    if repeated:
        logger.warning(
            "%d of %d held-out rows are training rows too (same user, item, label and time); drop repeated rows if "
            "they are not new opinions",
            repeated,
            len(held_out),
        )


class _Files:
    """Reads files with the same options, and in one format; if it is None, in the formats of their endings."""

    def __init__(self, format: str | None, options: Mapping[str, Any]) -> None:
        self._format, self._options = format, options

    def load(self, path: Path) -> datasets.Dataset | dict[str, datasets.Dataset]:
        if path.is_dir():
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                if self._format or self._options:
                    raise ConfigurationError(f"{path} is a saved dataset; leave format and options of files out")
                return _saved(path)
            files = files_by_split(path)
            if isinstance(files, list):
                return self._table(files)
            return {split: self._table(paths) for split, paths in files.items()}
        if not path.exists():
            raise StorageError(
                f"no interactions at {path}{_near(str(path))}; give a file of {', '.join(FORMATS)}, a folder, or a "
                "data set by name (puma-hub data lists them)"
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
        table: pa.Table = FORMATS.bound(self._format or require_kind(path), self._options)(path)
        return table


def _readable(table: pa.Table, path: Path) -> pa.Table:
    """The columns that a dataset can hold, without the index of pandas."""
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
        logger.warning("%s: the columns %s have types that datasets lacks and are left out", path, ", ".join(unknown))
    return table.drop_columns([name for name in names if name in unknown or _INDEX.fullmatch(name)])


def _saved(path: Path) -> datasets.Dataset | dict[str, datasets.Dataset]:
    """The dataset, or its splits, in a folder of ``save_to_disk``."""
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
