"""Writing files and folders so that a reader sees the old state or the new one, never half of one."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from puma_hub.errors import StorageError


def _prefix(parent: Path, name: str) -> str:
    """Name prefix for what is being written beside ``name``, after removing what killed processes left there."""
    for path in parent.glob(f".{glob.escape(name)}-writing-*"):
        owner = path.name.rpartition("-writing-")[2].partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            if (path / "was").exists() and not (parent / name).exists():  # killed between the two renames
                os.rename(path / "was", parent / name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return f".{name}-writing-{os.getpid()}-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _as_storage_error(final: Path, what: str) -> Iterator[None]:
    """Say what could not be written, and what to do."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise StorageError(f"cannot write {final}: {reason}; free space or choose another {what}") from error


@contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``target`` when the block ends without an error."""
    final = Path(target)
    try:
        if final.is_file():
            raise NotADirectoryError(f"{final} is a file")
        final.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=_prefix(final.parent, final.name), dir=final.parent))
    except OSError as error:
        raise StorageError(f"cannot write to {final}: {error.strerror or error}; choose another folder") from error
    try:
        with _as_storage_error(final, "folder"):
            yield staged
            staged.chmod(0o755)
            _swap(staged, final)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _swap(staged: Path, final: Path) -> None:
    if not final.exists():
        os.rename(staged, final)
        return
    old = Path(tempfile.mkdtemp(prefix=_prefix(final.parent, final.name), dir=final.parent))
    os.rename(final, old / "was")
    try:
        os.rename(staged, final)
    except OSError:
        os.rename(old / "was", final)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``target`` when the block ends without an error."""
    final = Path(target)
    staged: Path | None = None
    try:
        with _as_storage_error(final, "path"):
            final.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_prefix(final.parent, final.name), dir=final.parent)
            os.close(handle)
            staged = Path(name)
            yield staged
            staged.chmod(0o644)
            os.replace(staged, final)
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)


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
        raise StorageError(f"{source} is not valid JSON ({error}); restore the file or make it again") from error
    if not isinstance(data, dict):
        raise StorageError(f"{source} must hold a JSON object, found {type(data).__name__}")
    return data


@contextmanager
def replace_files(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder whose files are renamed into ``target`` when the block ends without an error.

    Other files in ``target`` stay. Larger files go first, so that a config never describes missing weights.
    """
    final = Path(target)
    staged: Path | None = None
    is_new = False
    try:
        with _as_storage_error(final, "folder"):
            is_new = not final.exists()
            final.mkdir(parents=True, exist_ok=True)
            staged = Path(tempfile.mkdtemp(prefix=_prefix(final, "files"), dir=final))
            yield staged
            for path in sorted(staged.iterdir(), key=lambda p: p.stat().st_size, reverse=True):
                os.replace(path, final / path.name)
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        if is_new and final.is_dir() and not any(final.iterdir()):
            final.rmdir()
