"""Checking a command's outputs before it starts: it must not replace its inputs, or files of others."""

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
# A folder with one of these files is read as a whole. Nothing else may be written into it.
_WHOLE = ("config.json", "bank.json", "state.json", "dataset_dict.json")
_SPLITS = ("train", "validation")


def check_outputs(
    args: argparse.Namespace,
    folders: Mapping[str, Layout] | None = None,
    working: Iterable[str] = (),
    files: Iterable[str] = (),
) -> None:
    """Check that no output of ``args`` would destroy something.

    Args:
        folders: folders that are replaced as a whole, each with the layout it may have now.
        working: folders in which files are written.
        files: files that are written, except that of ``--json``.

    Raises:
        ConfigurationError: an output is, contains or lies in an input of the command, or another output.
        StorageError: an output may not be replaced, or cannot be written.
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
                raise ConfigurationError(
                    f"{target} is an output, and {name} an input; choose another place for {target}"
                )
        require_writable(target)
    for number, file in enumerate(files):
        for other in (*folders, *working, *files[:number]):
            one, two = resolved(file), resolved(other)
            if within(one, two) or within(two, one):
                raise ConfigurationError(f"{file} and {other} are both written; choose another place for {file}")


def _matters(path: Path, read: Path, is_file: bool) -> bool:
    """Whether writing ``path`` changes the input ``read``, which is ``path`` or a folder above it."""
    if not read.is_dir() or any((read / name).is_file() for name in _WHOLE):
        return True
    return is_file and path.parent == read and path.stem in _SPLITS


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """The files and folders that ``args`` give as inputs, by the argument's name."""
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
