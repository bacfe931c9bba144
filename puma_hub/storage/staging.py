"""What is being written, under a name of its own beside its target, and what killed processes left of it.

The name is ``.TARGET-writing-PLACE-PROCESS-START-RANDOM``. PLACE stands for a machine since its boot, and there for one
namespace of processes: only within it does a process id say whether the writer is alive. START is when the process
began, since ids are given again. Of another place, which may share the disk, only what is old is taken for left behind.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
import platform
import re
import secrets
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

OLD = "was"
"""In a staged folder: what the target held, between the two renames of a replacement."""
_LONGEST = 120  # bytes of a target's name that a staged name repeats; names end at 255
_OLD_SECONDS = 7 * 24 * 3600.0  # without a change, of a writer that cannot be asked after
_BETWEEN_RENAMES = 60.0


def staged_folder(target: Path) -> Path:
    """Make an empty folder beside ``target``: of its mode if it is there, or else of what the umask leaves."""
    path = _beside(target)
    mode = _mode(target) if target.is_dir() else None
    path.mkdir(0o777 if mode is None else 0o700)
    if mode is not None:
        path.chmod(mode | 0o700)
    return path


def private_folder(target: Path) -> Path:
    """Make an empty folder beside ``target`` for this user alone."""
    path = _beside(target)
    path.mkdir(0o700)
    return path


def settle_modes(staged: Path, old: Path, whole: bool) -> None:
    """Give each file of ``staged`` the mode of the one it replaces in ``old``, a new one what the umask leaves.

    Where all of ``old`` is replaced, a new file is no wider than any that was in it. Some writers make their files for
    the owner alone. The umask is not asked for: asking sets it, in all threads.
    """
    probe = staged / f".mode-{secrets.token_hex(4)}"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    new = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    if whole and (modes := [mode for path in _files(old) if (mode := _mode(path)) is not None]):
        new &= functools.reduce(operator.or_, modes)
    for path in staged.rglob("*"):
        if path.is_file():
            before = _mode(old / path.relative_to(staged))
            path.chmod(new if before is None else before)


def clear_leftovers(target: Path) -> None:
    """Remove what killed processes left beside ``target``; where they had moved it aside, it comes back first."""
    for path, own in _staged(target):
        restore(target, path, own)
        if _abandoned(path, own):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def bring_back(target: Path) -> None:
    """Where a process was killed between the two renames of a replacement, put the old folder back."""
    for path, own in _staged(target):
        restore(target, path, own)


def is_aside(target: Path) -> bool:
    """Whether another process is between the two renames of a replacement."""
    return not os.path.lexists(target) and any((path / OLD).exists() for path, _ in _staged(target))


def restore(target: Path, path: Path, own: re.Match[str]) -> None:
    if os.path.lexists(target) or not (path / OLD).exists():
        return
    alive = _alive(own) if own["place"] == _place() else _age(path) < _BETWEEN_RENAMES
    if not alive:
        with suppress(OSError):  # another process was quicker
            os.rename(path / OLD, target)


def flush(folder: Path) -> None:
    """Wait until the files of ``folder`` are on the disk, before what they replace is deleted."""
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(OSError), open(path, "rb") as file:
                os.fsync(file.fileno())


def _beside(target: Path) -> Path:
    own = f"{_place()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"
    return target.parent / f".{short_name(target.name)}-writing-{own}"


def short_name(name: str) -> str:
    """The name, or a part of it and a hash where names made of it would be too long for a file."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    return f"{name[: _LONGEST // 8]}~{hashlib.sha256(encoded).hexdigest()[:16]}"


def _staged(target: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    pattern = re.compile(
        rf"\.{re.escape(short_name(target.name))}-writing-(?P<place>[0-9a-f]{{12}})-(?P<process>\d+)-(?P<start>\d+)-[0-9a-f]{{8}}"
    )
    try:
        names = os.listdir(target.parent)
    except OSError:
        return
    for name in names:
        own = pattern.fullmatch(name)
        if own is not None:
            yield target.parent / name, own


def _place() -> str:
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        parts = [platform.node(), str(uuid.getnode())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _started(process: int) -> int:
    """When a process began, in the kernel's ticks since boot; 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _alive(own: re.Match[str]) -> bool:
    process, began = int(own["process"]), int(own["start"])
    # Not os.kill(process, 0): on Windows that ends the process.
    return psutil.pid_exists(process) and _started(process) in (began, 0)


def _abandoned(path: Path, own: re.Match[str]) -> bool:
    return not _alive(own) if own["place"] == _place() else _age(path) > _OLD_SECONDS


def _age(path: Path) -> float:
    """Seconds since the last change of ``path`` or of anything in it."""
    newest = 0.0
    for one in (path, *path.rglob("*")):
        with suppress(OSError):
            newest = max(newest, one.lstat().st_mtime)
    return time.time() - newest


def _files(folder: Path) -> list[Path]:
    """The files below ``folder`` now; none where another process is replacing it."""
    try:
        return [path for path in folder.rglob("*") if path.is_file()]
    except FileNotFoundError:
        return []


def _mode(path: Path) -> int | None:
    """None where there is nothing, or no more: another process may be replacing it."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
