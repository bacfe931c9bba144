"""Where a command writes, checked before it begins: nothing that is not ours, nothing that it reads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from puma_hub.errors import ConfigurationError
from puma_hub.storage.layout import (
    Layout,
    is_device,
    require_file,
    require_replaceable,
    require_writable,
    resolved,
    within,
)

_OUTPUTS = ("out", "json")
# A folder with one of these is read as a whole, and nothing else belongs into it.
_WHOLE = ("config.json", "bank.json", "state.json", "dataset_dict.json")
_SPLITS = ("train", "validation")


def check_outputs(
    args: argparse.Namespace,
    folders: Mapping[str, Layout] | None = None,
    working: Iterable[str] = (),
    files: Iterable[str] = (),
) -> None:
    """Refuse outputs of ``args`` that would cost the user something.

    Args:
        folders: what is replaced as a whole, with the layout it may have now.
        working: folders in which files are written.
        files: files that are written, beside that of ``--json``.

    Raises:
        ConfigurationError: an output is, holds or lies in what the command reads, or another of its outputs.
        StorageError: an output is not what may be replaced, or cannot be written.
    """
    folders, working = folders or {}, [*working]
    files = [file for file in (*files, args.json) if file and not is_device(Path(file))]
    inputs = dict(_inputs(args))
    for target, layout in folders.items():
        require_replaceable(target, layout)
    for target in files:
        require_file(target)
    for target in (*folders, *working, *files):
        path = resolved(target)
        for name, read in inputs.items():
            if within(read, path) or (within(path, read) and _matters(path, read, target in files)):
                raise ConfigurationError(f"{target} is written, and {name} is read; choose another place for {target}")
        require_writable(target)
    for number, file in enumerate(files):
        for other in (*folders, *working, *files[:number]):
            one, two = resolved(file), resolved(other)
            if within(one, two) or within(two, one):
                raise ConfigurationError(f"{file} and {other} are both written; choose another place for {file}")


def _matters(path: Path, read: Path, is_file: bool) -> bool:
    """Whether writing ``path`` changes what is read from ``read``, which is it or a folder above it."""
    if not read.is_dir() or any((read / name).is_file() for name in _WHOLE):
        return True
    return is_file and path.parent == read and path.stem in _SPLITS


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """The files and folders that ``args`` name as something to read, by name."""
    for key, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if key in _OUTPUTS or not isinstance(text, str) or not text:
                continue
            for path in (Path(text), _fetched(text)):
                if path is not None and os.path.exists(path):
                    yield text, resolved(path)


def _fetched(name: str) -> Path | None:
    from puma_hub.data.cache import model_folder

    return model_folder(name) if "/" not in name and "\0" not in name else None
