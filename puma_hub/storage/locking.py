"""Waiting for other processes that change the same file.

The lock is on the file itself. So it goes with the file when that is replaced, and nothing is left behind by a killed
process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from puma_hub.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be replaced anyway
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(path: Path, look_again: Callable[[OSError], bool] = lambda _: False) -> Iterator[None]:
    """Wait until no other process is in here with this file, and keep others waiting.

    Args:
        path: a file that is only ever replaced, without symbolic links.
        look_again: told why the file cannot be opened; whether to try again. Otherwise there is nothing to lock.

    Raises:
        StorageError: the file system has no locks.
    """
    while fcntl is not None:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            if look_again(error):
                continue
            break
        try:
            _lock(path, file)
            if _is_still(path, file):
                yield
                return
        finally:
            os.close(file)
    yield


def _lock(path: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise StorageError(
            f"cannot keep others from changing {path}: {error.strerror}; change it on a local disk and copy it"
        ) from error


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False
