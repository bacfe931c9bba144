"""What a folder holds: a bank, an adapter, or something else that a message can tell."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from puma_hub.errors import StorageError, shown
from puma_hub.storage import read_json

BANK, ADAPTER = "bank", "adapter"
_BANK_FILE = "bank.json"  # kept by bank/description.py, which takes seconds to import
_DATA = (".parquet", ".csv", ".json", ".jsonl", ".arrow")
_ADAPTER_TYPE = "puma_adapter"


@dataclass(frozen=True)
class Contents:
    """``kind``: ``bank``, ``adapter``, or None for anything else; ``text`` says what, for a message."""

    kind: str | None
    text: str


def contents(path: str | os.PathLike[str]) -> Contents:
    """What is at a path of this machine; no more than names and ``config.json`` is read."""
    place = Path(path)
    if not place.exists():
        return Contents(None, "nothing")
    if not place.is_dir():
        return Contents(None, "a file, no folder")
    try:
        names = sorted(os.listdir(place))
    except OSError as error:
        return Contents(None, f"what cannot be read ({error.strerror})")
    if _BANK_FILE in names:
        return Contents(BANK, "a bank")
    if "config.json" in names:
        return _model(place)
    if not names:
        return Contents(None, "nothing: the folder is empty")
    if {"store.json", "data.mdb"} <= {*names}:
        return Contents(None, "a keyed store, which is opened with puma_hub.bank.KeyedStore")
    inside = [name for name in names if _is_ours(place / name)]
    if inside:
        return Contents(None, f"no bank or adapter itself, but there is one in {', '.join(map(shown, inside))}")
    if any(name.endswith(_DATA) for name in names) or (place / "data").is_dir():
        return Contents(None, f"a data set or other data ({_some(names)})")
    return Contents(None, f"neither a bank nor an adapter ({_some(names)})")


def is_bank(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a bank, saved or downloaded."""
    return contents(path).kind == BANK


def require_ours(path: str | os.PathLike[str]) -> str:
    """The kind of what is there, ``bank`` or ``adapter``.

    Raises:
        StorageError: it is something else; the message says what.
    """
    if not os.path.exists(path):
        raise StorageError(f"there is no folder {path}; give the folder of a bank or of an adapter")
    found = contents(path)
    if found.kind is None:
        raise StorageError(f"{path} holds {found.text}; give the folder of a bank or of an adapter")
    return found.kind


def _model(place: Path) -> Contents:
    kind: object = None
    with suppress(StorageError):
        kind = read_json(place / "config.json").get("model_type")
    if kind == _ADAPTER_TYPE:
        return Contents(ADAPTER, "an adapter")
    return Contents(None, "a config.json that cannot be read" if kind is None else f"a model of type {shown(kind)}")


def _is_ours(path: Path) -> bool:
    if (path / _BANK_FILE).is_file():
        return True
    return (path / "config.json").is_file() and _model(path).kind == ADAPTER


def _some(names: list[str]) -> str:
    return ", ".join([*map(shown, names[:3]), *(["..."] if len(names) > 3 else [])])
