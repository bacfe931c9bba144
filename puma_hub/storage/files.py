"""Writing files and folders so that a reader sees the old state or the new one, never half of one.

What is new gets the mode that the umask leaves; what is replaced keeps its own. Nothing that is not ours is replaced,
see :mod:`puma_hub.storage.layout`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from puma_hub.errors import PumaHubError, StorageError, first_line
from puma_hub.storage.layout import Layout, is_device, require_file, require_ours, require_replaceable, resolved
from puma_hub.storage.staging import OLD, clear_leftovers, flush, private_folder, settle_modes, staged_folder

# What renaming meets where another process replaces the same folder.
_RACES = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES = 10
_SCRATCH = "puma-hub"


@contextmanager
def _as_storage_error(target: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Say what could not be written, and what to do."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise StorageError(f"cannot write {target}: {reason}; free space or choose another {what}") from error


@contextmanager
def _folders_above(path: Path) -> Iterator[None]:
    """Make the folders above ``path``; remove those again that are empty after an error."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:  # the innermost first
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def new_folder(target: str | os.PathLike[str], layout: Layout | None = None) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``target`` when the block ends without an error.

    Args:
        layout: the files of the folder that may be replaced; without it, only an empty one may.

    Raises:
        StorageError: ``target`` holds anything else, or cannot be written.
    """
    require_replaceable(target, layout)
    final = resolved(target)
    with _as_storage_error(target, "folder"), _folders_above(final):
        clear_leftovers(final)
        require_replaceable(target, layout)  # what a killed process had moved aside may be back
        staged = staged_folder(final)
        try:
            yield staged
            settle_modes(staged, final, whole=True)
            if final.is_dir():
                flush(staged)
            _swap(staged, final, layout, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _swap(staged: Path, final: Path, layout: Layout | None, shown: str | os.PathLike[str]) -> None:
    for attempt in range(_TRIES):
        aside = private_folder(final)
        try:
            _rename_over(staged, final, aside / OLD, layout, shown)
            return
        except OSError as error:
            if error.errno not in _RACES or attempt == _TRIES - 1:
                raise
        finally:
            _drop(aside, final)


def _drop(aside: Path, final: Path) -> None:
    """Delete ``aside``, but for what could be brought back neither by us nor by the next writer."""
    for _ in range(_TRIES):
        if os.path.lexists(final) or not os.path.lexists(aside / OLD):
            shutil.rmtree(aside, ignore_errors=True)
            return
        time.sleep(0.01)  # another writer is between its two renames


def _rename_over(staged: Path, final: Path, old: Path, layout: Layout | None, shown: str | os.PathLike[str]) -> None:
    with suppress(FileNotFoundError):
        os.rename(final, old)
    try:
        if os.path.lexists(old):
            require_ours(old, layout, shown)  # others may have put something there meanwhile
        os.rename(staged, final)
    except OSError:
        if os.path.lexists(old) and not os.path.lexists(final):
            os.rename(old, final)
        raise


@contextmanager
def new_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``target`` when the block ends without an error.

    A pipe or device is written to instead.

    Raises:
        StorageError: ``target`` is a folder, or cannot be written.
    """
    require_file(target)
    if is_device(Path(target)):
        with _as_storage_error(target, "path"), tempfile.TemporaryDirectory() as place:
            yield Path(place, "file")
            with open(target, "ab") as device:
                device.write(Path(place, "file").read_bytes())
        return
    final = resolved(target)
    with _as_storage_error(target, "path"), _folders_above(final), _private_folder(final) as place:
        yield place / final.name
        _move_files([place / final.name], place, final.parent)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for this user alone, where temporary files go; it is gone when the block ends.

    What killed processes left there before is removed: it may hold users' prompts.

    Raises:
        StorageError: it cannot be made, or the disk is full.
    """
    final = Path(tempfile.gettempdir(), _SCRATCH)
    with _as_storage_error(final, "folder by TMPDIR"):
        clear_leftovers(final)
        place = private_folder(final)
    try:
        yield place
    except OSError as error:
        if isinstance(error, PumaHubError) or error.errno not in _FULL:
            raise
        with _as_storage_error(final, "folder by TMPDIR"):
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _private_folder(final: Path) -> Iterator[Path]:
    """A folder beside ``final`` for this user alone; writers may leave files of their own in it when they fail."""
    clear_leftovers(final)
    place = private_folder(final)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move_files(files: Sequence[Path], place: Path, folder: Path, last: str | None = None) -> None:
    settle_modes(place, folder, whole=False)
    if last is not None and (place / last).is_file():
        (folder / last).unlink(missing_ok=True)
    for path in files:
        os.replace(path, folder / path.name)


def write_json(target: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write ``data`` as indented JSON, atomically."""
    with new_file(target) as path:
        path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StorageError: the file is missing or is not a JSON object.
    """
    try:
        data = json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{source} is not valid JSON ({first_line(error)}); restore the file or make it again"
        ) from error
    if not isinstance(data, dict):
        raise StorageError(f"{source} must hold a JSON object, found {type(data).__name__}")
    return data


@contextmanager
def replace_files(target: str | os.PathLike[str], first: str | None = None, last: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder whose files are renamed into ``target`` when the block ends without an error.

    Other files in ``target`` stay. Larger files go first, so that a config never describes missing weights; before all
    of them the one called ``first``. The one called ``last`` tells of all the others: its old one goes before the first
    of them is replaced, so that after a kill it is missing and never tells of other files.

    Raises:
        StorageError: ``target`` is a file, or cannot be written.
    """
    final = resolved(target)
    with _as_storage_error(target, "folder"), _folders_above(final / "file"), _private_folder(final / "files") as place:
        yield place
        files = sorted(
            place.iterdir(),
            key=lambda path: (path.name == first, path.name != last, path.stat().st_size),
            reverse=True,
        )
        folders = [path.name for path in files if (final / path.name).is_dir()]
        if folders:
            raise StorageError(f"cannot write {target}: {folders[0]} in it is a folder; choose another folder")
        _move_files(files, place, final, last)
