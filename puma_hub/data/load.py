"""Loading interactions by name or from files."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from puma_hub.data.cache import data_folder
from puma_hub.data.movielens import read_movielens
from puma_hub.data.schema import check_interactions
from puma_hub.data.split import chronological_split, most_recent, sample_users
from puma_hub.data.statistics import with_item_statistics
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from puma_hub.scorer import Task

_BUILDERS = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_READERS: dict[str, Callable[[str | Path], datasets.Dataset]] = {"movielens-100k": read_movielens}
_SPLITS = ("train", "validation")


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
) -> datasets.DatasetDict:
    """Load interactions as ``train`` and ``validation``, the last rows of each user held out.

    The columns are ``user_id``, ``item_id``, ``item_text`` and ``label``, and if there are any, ``timestamp`` (numbers,
    times, or text of ISO 8601) and ``history`` (lists of titles, which csv cannot hold).

    Args:
        name_or_path: ``movielens-100k``; a csv, parquet, json or jsonl file; a folder with ``train`` and
            ``validation`` files, which are then taken as they are; or a folder of ``Dataset.save_to_disk``.
        folder: where a named data set's files are; for ``movielens-100k`` the cache of ``puma-hub fetch``.
        task: checks the labels.
        users: draw this many users at random with ``seed``.
        rows_per_user: keep the most recent rows of each user.
        item_statistics: add each item's mean label in ``train`` to its text.
        held_out: the share of each user's rows, the last in time, that become ``validation``.

    Raises:
        InteractionsError: columns or labels are wrong.
        StorageError: a file is missing or cannot be read.
        ConfigurationError: an unknown name, or an option out of range.
    """
    name = str(name_or_path)
    if name in _READERS:
        loaded: datasets.Dataset | dict[str, datasets.Dataset] = _READERS[name](folder or data_folder(name))
    else:
        loaded = _from_path(Path(name))
    if isinstance(loaded, datasets.Dataset):
        rows = check_interactions(loaded, task)
        if users is not None:
            rows = sample_users(rows, users, seed)
        if rows_per_user is not None:
            rows = most_recent(rows, rows_per_user)
        splits = chronological_split(rows, held_out)
        return with_item_statistics(splits) if item_statistics else splits
    if users is not None or rows_per_user is not None:
        raise ConfigurationError("these interactions are split already; users and rows_per_user need one file")
    splits = datasets.DatasetDict({name: check_interactions(rows, task) for name, rows in loaded.items()})
    return with_item_statistics(splits) if item_statistics else splits


def _from_path(path: Path) -> datasets.Dataset | dict[str, datasets.Dataset]:
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(str(path))
            return (
                {name: found[name] for name in _require_splits(path, set(found))} if isinstance(found, dict) else found
            )
        files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in _BUILDERS}
        return {name: _read_file(files[name]) for name in _require_splits(path, set(files))}
    if not path.exists():
        raise StorageError(
            f"no interactions at {path}; give a csv, parquet or json file, a folder or one of {', '.join(_READERS)}"
        )
    return _read_file(path)


def _require_splits(path: Path, found: set[str]) -> tuple[str, ...]:
    if not set(_SPLITS) <= found:
        raise InteractionsError(
            f"{path} needs the splits train and validation, found {', '.join(sorted(found)) or 'none'}"
        )
    return _SPLITS


def _from_csv(path: str, **options: Any) -> datasets.Dataset:
    """All columns as text: a guess made of the first rows would take the zeros off ids, or not fit the others."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        features = datasets.Features({name: datasets.Value("string") for name in next(csv.reader(file))})
    # Empty cells are missing; a title may well be "None" or "NA".
    return datasets.Dataset.from_csv(path, features=features, keep_default_na=False, na_values=[""], **options)


def _read_file(path: Path) -> datasets.Dataset:
    if path.suffix not in _BUILDERS:
        raise StorageError(f"{path} has an unknown ending; use {', '.join(_BUILDERS)}")
    try:
        # In memory and outside the datasets cache: a changed file is never served from an old copy.
        reader = {
            "csv": _from_csv,
            "parquet": datasets.Dataset.from_parquet,
            "json": datasets.Dataset.from_json,
        }
        with tempfile.TemporaryDirectory() as cache:
            return reader[_BUILDERS[path.suffix]](str(path), keep_in_memory=True, cache_dir=cache)
    except Exception as error:  # parsers raise many kinds
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise InteractionsError(f"cannot read {path} as {_BUILDERS[path.suffix]}: {reason}") from error
