"""What may be replaced as a whole: nothing, an empty folder, or one that holds just what we write there."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from puma_hub.errors import StorageError

# What file managers leave of themselves; nobody misses it.
_DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini", "._*")
_MOUNTS = Path("/proc/self/mountinfo")
_SHOWN = 3
_TRIES = 20  # at what others replace meanwhile


@dataclass(frozen=True)
class Layout:
    """The files of one kind of folder.

    Args:
        what: the kind, for messages, such as ``"a prompt bank"``.
        required: files that are in every such folder, by which it is known.
        others: patterns of the rest, relative to the folder and with ``/`` between parts; ``*`` is within one part.
        keys: what the first required file, of JSON, holds; by these it is told from a file of the same name.
    """

    what: str
    required: tuple[str, ...]
    others: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def knows(self, file: str) -> bool:
        return any(_matches(file, pattern) for pattern in (*self.required, *self.others))

    def describes(self, folder: Path) -> bool:
        """Whether the first required file is ours."""
        if not self.keys:
            return True
        try:
            data = json.loads((folder / self.required[0]).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(data, dict) and set(self.keys) <= set(data)


def resolved(target: str | os.PathLike[str]) -> Path:
    """The absolute path behind symbolic links.

    Raises:
        StorageError: links go round in a circle, or the text is no path.
    """
    try:
        path = Path(target).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"{os.fspath(target)!r} cannot be used as a path ({error}); choose another") from error
    _require_short(path, target)
    if path.is_symlink():  # newer versions of Python give a circle back as it is
        raise StorageError(f"{target} is a symbolic link that leads back to itself; choose another path")
    return path


def _require_short(path: Path, shown: str | os.PathLike[str]) -> None:
    """Refuse names that no file can have here; what cannot be looked at for another reason is told later."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(
                f"{str(shown)[:40]}... cannot be used as a path ({error.strerror}); choose another"
            ) from error


def require_replaceable(target: str | os.PathLike[str], layout: Layout | None = None) -> None:
    """Refuse to replace what is not ours.

    Raises:
        StorageError: ``target`` is a file, the current folder or one above it, or a mount point; or a folder that holds
            something which ``layout`` does not know, or lacks what it requires.
    """
    path = resolved(target)
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # asked once: others may be replacing it
        return
    if not stat.S_ISDIR(mode):
        raise StorageError(f"cannot write to {target}: it is a file; choose another folder")
    if _holds_current_folder(path):
        raise StorageError(
            f"{target or '.'} is the current folder, or holds it, and would be replaced; choose a folder in it"
        )
    if _is_mount(path):
        raise StorageError(f"{target} is a mount point, which cannot be replaced; choose a folder in it")
    require_ours(path, layout, target)


def require_ours(path: Path, layout: Layout | None, shown: str | os.PathLike[str]) -> None:
    """Refuse a folder with anything in it that ``layout`` does not know; ``shown`` is its name for messages.

    Looked at again where another process replaces it meanwhile.

    Raises:
        StorageError: it has, or lacks what the layout requires.
    """
    for last in (*[False] * _TRIES, True):
        before = _state(path)
        if before is None:
            return
        try:
            _require_ours(path, layout, shown)
            return
        except StorageError:
            if last or _state(path) == before:
                raise


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells one folder of a name from the next; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _require_ours(path: Path, layout: Layout | None, shown: str | os.PathLike[str]) -> None:
    try:
        files = list(_files(path, layout))
    except OSError as error:
        raise StorageError(f"cannot look into {shown}: {error.strerror or error}; choose another folder") from error
    foreign = [file for file in files if layout is None or not layout.knows(file)]
    way_out = "choose a folder that is new or empty, or move what is there"
    if foreign:
        names = ", ".join(foreign[:_SHOWN]) + (" and more" if len(foreign) > _SHOWN else "")
        raise StorageError(f"{shown} holds what puma_hub did not write ({names}) and would be replaced; {way_out}")
    if files and layout is not None:
        missing = [name for name in layout.required if name not in files]
        if missing:
            raise StorageError(
                f"{shown} is not {layout.what} ({', '.join(missing)} missing) and would be replaced; {way_out}"
            )
        if not layout.describes(path):
            raise StorageError(
                f"{shown} is not {layout.what} ({layout.required[0]} is another's, or damaged) and would be replaced; "
                f"{way_out}"
            )


def require_writable(target: str | os.PathLike[str]) -> None:
    """Refuse a path that cannot be made, before work begins that would be lost. Leaves nothing.

    Raises:
        StorageError: the nearest folder above it cannot be written to, or is a file.
    """
    path = resolved(target)
    above = path.parent
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise StorageError(f"cannot write to {target}: {above} is a file; choose another folder")
    for folder in (above, path) if path.is_dir() else (above,):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StorageError(
                f"cannot write to {target}: {error.strerror or error} in {folder}; choose another folder"
            ) from error


def require_file(target: str | os.PathLike[str]) -> None:
    """Refuse a path where no file can be written.

    Raises:
        StorageError: it is a folder.
    """
    if resolved(target).is_dir():
        raise StorageError(f"cannot write {target}: it is a folder; give the path of a file in it")


def is_device(path: Path) -> bool:
    """Whether this is a pipe, terminal or ``/dev/null``: written to, and never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or lies in it, by whatever names; both are absolute."""
    return any(one == folder or _same(one, folder) for one in (path, *path.parents))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _files(folder: Path, layout: Layout | None) -> Iterator[str]:
    """What is in ``folder`` but for droppings: files, and folders that the layout has no files in."""
    expected = {os.path.dirname(pattern) for pattern in layout.others} if layout else set()
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if entry.name in expected:
                yield from (f"{entry.name}/{file}" for file in _files(entry, None))
            else:
                yield f"{entry.name}/"
        elif not any(fnmatchcase(entry.name, pattern) for pattern in _DROPPINGS):
            yield entry.name


def _matches(file: str, pattern: str) -> bool:
    parts, wanted = file.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(fnmatchcase(part, one) for part, one in zip(parts, wanted))


def _holds_current_folder(path: Path) -> bool:
    try:
        here = Path.cwd()
    except OSError:  # it has been deleted
        return False
    return path in (here, *here.parents)


def _is_mount(path: Path) -> bool:
    if os.path.ismount(path):
        return True
    try:  # a bind mount within one file system is known to the kernel alone
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return False
    points = (line.split(" ")[4] for line in lines if line.count(" ") > 4)
    return str(path) in (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point) for point in points)
