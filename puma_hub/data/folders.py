"""Finding the files of each split in a folder."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from puma_hub.data.file_kinds import kind_of, plain_name
from puma_hub.errors import InteractionsError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation")
# The usual names of each split. For the held-out split, the first name that exists is used.
_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_NAME = re.compile(rf"(?P<split>{'|'.join(_NAMES)})([-_.](?P<shard>\d+)(-of-(?P<shards>\d+))?([-_.].*)?)?", re.I)
_PART = re.compile(r"part[-_.]\d+.*", re.I)  # as Spark and Dask name the files of a table


def files_by_split(folder: Path) -> dict[str, list[Path]] | list[Path]:
    """The files of ``train`` and ``validation``, or of a single table without splits.

    ``validation`` may also be named ``valid``, ``val`` or ``dev``. If none of these exists, ``test`` is used. A split
    may have several files (``train-00000-of-00002.parquet``) or a folder of its own. A table may have files named
    ``part-...``.

    Raises:
        InteractionsError: a split or one of its files is missing, or a split exists under two names.
    """
    if _entries(folder) == [folder / "data"]:
        folder = folder / "data"  # the usual layout of data set repositories
    found: dict[str, dict[str, list[Path]]] = {}
    parts: list[Path] = []
    others: list[str] = []
    for path in _entries(folder):
        match = _NAME.fullmatch(path.name if path.is_dir() else plain_name(path).stem)
        if match:
            name = match["split"].lower()
            files = _data_files(path) if path.is_dir() else [path]
            found.setdefault(_NAMES[name], {}).setdefault(name, []).extend(files)
        elif path.is_file() and _PART.fullmatch(path.name):
            parts.append(path)
        else:
            others.append(path.name)
    if parts and not found:
        return parts
    for split, names in found.items():
        if len(names) > 1:
            raise InteractionsError(f"{folder} has {split} under the names {', '.join(sorted(names))}; keep one")
    splits = {split: files for split, names in found.items() for files in names.values() if files}
    if "validation" not in splits and "test" in splits:
        splits["validation"] = splits.pop("test")
        logger.info("%s has no validation files; the rows of test are held out instead", folder)
    elif "test" in splits:
        logger.info("%s: the files of test are not used; the rows of validation are held out", folder)
    if not set(SPLITS) <= set(splits):
        present = ", ".join(sorted({*splits, *others})) or "none"
        raise InteractionsError(
            f"{folder} needs the splits train and validation (or valid, val, dev, test), found {present}; or "
            "give one file"
        )
    for split in SPLITS:
        _require_all_shards(split, splits[split])
    return {split: splits[split] for split in SPLITS}


def _entries(folder: Path) -> list[Path]:
    """Data files and folders, without hidden files and markers such as ``_SUCCESS``."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name[0] not in "._" and ((path.is_file() and kind_of(path)) or (path.is_dir() and _data_files(path)))
    ]


def _data_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] not in "._" and kind_of(path)]


def _require_all_shards(split: str, files: list[Path]) -> None:
    matches = [_NAME.fullmatch(plain_name(path).stem) for path in files]
    numbered = [match for match in matches if match and match["shards"]]
    totals = {int(match["shards"]) for match in numbered}
    if len(totals) > 1 or (numbered and len(numbered) != len(files)):
        raise InteractionsError(
            f"the files of {split} belong to several sets: {', '.join(f.name for f in files)}; keep one set"
        )
    missing = sorted({n for total in totals for n in range(total)} - {int(match["shard"]) for match in numbered})
    if missing:
        raise InteractionsError(
            f"{len(missing)} of the {totals.pop()} files of {split} are missing, the first is number {missing[0]}; "
            "copy them too"
        )
    formats = {kind_of(path) for path in files}
    if len(formats) > 1:
        names = ", ".join(path.name for path in files)
        raise InteractionsError(f"{split} exists in several formats: {names}; keep one of them")
    if len(files) > 1 and len(numbered) != len(files) and not all(_numbered(path) for path in files):
        names = ", ".join(path.name for path in files)
        raise InteractionsError(f"{split} exists more than once: {names}; keep one file, or number the parts")


def _numbered(path: Path) -> bool:
    return bool(re.search(r"\d", plain_name(path).stem))
