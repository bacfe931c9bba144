"""Work that takes long, in a folder beside its target that a killed process leaves for the next one to go on with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puma_hub.errors import PumaHubError, StorageError
from puma_hub.storage.layout import resolved
from puma_hub.storage.staging import private_folder, short_name


@dataclass
class Unfinished:
    """The folder of some work, and whether it stays however this process ends, for others who work on it too."""

    folder: Path
    kept: bool = False


@contextmanager
def unfinished_folder(target: Path, identity: str | None) -> Iterator[Unfinished]:
    """Yield a folder beside ``target`` for the parts of some work; it is gone when the block ends without an error.

    A kill, a full disk or another error of the machine leave the parts that are there. Wrong input leaves nothing.

    Args:
        identity: a hash of what decides the result. The same work finds the same folder again, and several processes
            may share it. None where it cannot be told: nothing is found again then.
    """
    final = resolved(target)
    final.parent.mkdir(parents=True, exist_ok=True)
    if identity is None:
        folder = private_folder(final)
    else:
        folder = final.parent / f".{short_name(final.name)}-unfinished-{identity}"
        folder.mkdir(0o700, exist_ok=True)
    work = Unfinished(folder)
    try:
        yield work
    except BaseException as error:
        wrong_input = isinstance(error, PumaHubError) and not isinstance(error, StorageError)
        nothing = not any(path.is_file() for path in folder.rglob("*"))
        if identity is None or (not work.kept and (wrong_input or nothing)):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not work.kept:
        shutil.rmtree(folder, ignore_errors=True)
