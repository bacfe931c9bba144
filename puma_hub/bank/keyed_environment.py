"""The LMDB environments of keyed stores: opened without locks, since files are replaced and never changed.

LMDB's own locks would need a file that readers can write, a limited number of readers, and process ids that differ:
two containers whose processes have the same id, and which share a disk, take each other's readers for their own.

Without locks an environment holds no more than a file and a read-only map of it. So a forked child may go on with its
parent's, which LMDB forbids for the sake of the locks, as long as it ends its own transactions.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from puma_hub.bank.keyed_files import DATA_FILE, SEAL, StoreDescription, require_store
from puma_hub.bank.keyed_records import Record, damaged
from puma_hub.bank.provenance import Provenance
from puma_hub.errors import CheckpointError, MissingDependencyError, StorageError
from puma_hub.storage.layout import resolved
from puma_hub.storage.staging import bring_back

if TYPE_CHECKING:
    import lmdb

Identity: TypeAlias = tuple[int, int, int]
"""What tells the data of one folder from what replaces it: device, inode and size."""

_SYSTEM = (errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_TRIES, _PAUSE = 20, 0.01  # between the two renames of a replacement there is no folder


def lmdb_module() -> Any:
    """LMDB's package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import lmdb
    except ImportError as error:
        raise MissingDependencyError("keyed stores need the package lmdb: pip install 'puma_hub[serve]'") from error
    return lmdb


class StoreFiles:
    """The files of a store as they were when they were opened, which they stay: they are only ever replaced.

    They are closed when nobody refers to them any more. So nothing is unmapped that another thread still reads.

    Raises:
        CheckpointError: a file is damaged, or files do not belong together.
        BankError: the store has a newer format.
        StorageError: the files cannot be read.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        lmdb = lmdb_module()
        self.identity, self._where, self._errors = identity, str(folder), lmdb.Error
        self.description = StoreDescription.read(folder)
        self.packing = self.description.packing
        if identity[-1] != self.description.data_bytes:
            raise CheckpointError(
                damaged(self._where, f"{DATA_FILE} has {identity[-1]} bytes of {self.description.data_bytes}")
            )
        self.head = self.description.read_head(folder)
        self._environment = _opened(lmdb, folder, identity[-1])
        with self._reading() as reading:
            seal, entries = bytes(reading.get(SEAL, b"")), reading.stat()["entries"]
        if seal != self.description.seal or entries - 1 != self.description.users:
            raise CheckpointError(damaged(self._where, "its files do not belong together"))

    @property
    def provenance(self) -> Provenance:
        return self.description.provenance

    @property
    def users(self) -> int:
        return self.description.users

    def prompt(self, key: bytes) -> np.ndarray | None:
        """The prompt with this key, float32 ``(l, d)``; None if there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        with self._reading() as reading:
            found = reading.get(key)
            if found is None:
                return None
            payload = np.frombuffer(self.packing.payload(key, found, self._where), np.uint8)
            return self.packing.prompts(payload)[0]

    def prompts(self, keys: Sequence[bytes]) -> tuple[np.ndarray, list[int]]:
        """The prompts with these keys, float32 ``(n, l, d)``, and the positions of keys that are not there.

        Raises:
            CheckpointError: the file is damaged.
        """
        payloads, missing = np.zeros((len(keys), self.packing.nbytes), np.uint8), []
        with self._reading() as reading:
            for position, key in enumerate(keys):
                found = reading.get(key)
                if found is None:
                    missing.append(position)
                else:
                    payloads[position] = np.frombuffer(self.packing.payload(key, found, self._where), np.uint8)
        return self.packing.prompts(payloads), missing

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """The positions of keys that are not there. Raises CheckpointError, if the file is damaged."""
        with self._reading() as reading:
            return [position for position, key in enumerate(keys) if reading.get(key) is None]

    def records(self) -> Iterator[Record]:
        """All records in the order of their keys. Raises CheckpointError, if one is damaged."""
        with self._reading() as reading:
            for key, value in reading.cursor():
                if key != SEAL:
                    self.packing.payload(key, value, self._where)
                    yield bytes(key), bytes(value)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._environment.begin(buffers=True) as transaction:  # ended here, in a forked child too
                yield transaction
        except self._errors as error:
            raise CheckpointError(damaged(self._where, error)) from error


def identity_of(data: str) -> Identity | None:
    """That of a file of data now; None where there is none."""
    try:
        found = os.stat(data)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size


def data_path(folder: Path) -> str:
    """The file of a store's data, as :func:`identity_of` takes it: joining paths takes longer than finding a prompt."""
    return os.path.join(folder, DATA_FILE)


def open_files(folder: Path) -> StoreFiles:
    """The files of the store in a folder. All who open the same ones in this process share them, as LMDB demands.

    Raises:
        StorageError, CheckpointError: as for :class:`StoreFiles`.
        BankError: the store has a newer format.
        MissingDependencyError: LMDB is not installed.
    """
    if not folder.is_dir():
        bring_back(resolved(folder))
    data = data_path(folder)
    for attempt in range(_TRIES):
        identity = identity_of(data)
        try:
            require_store(folder)
            found = None if identity is None else _shared(folder, identity)
            if found is not None and identity_of(data) == identity:
                return found
        except (StorageError, CheckpointError):
            unchanged = identity_of(data) == identity and (identity is not None or folder.is_dir())
            if unchanged or attempt == _TRIES - 1:
                raise
        time.sleep(_PAUSE)
    raise StorageError(f"the keyed store {folder} is replaced again and again; open it when that has ended")


_shared_files: weakref.WeakValueDictionary[Identity, StoreFiles] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _shared(folder: Path, identity: Identity) -> StoreFiles:
    with _lock:
        found = _shared_files.get(identity)
        if found is None:
            found = _shared_files[identity] = StoreFiles(folder, identity)
        return found


def _renew_lock() -> None:
    """In a forked child, where no thread is left that could let go of the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


def _opened(lmdb: Any, folder: Path, size: int) -> lmdb.Environment:
    try:
        return lmdb.Environment(
            str(folder), map_size=size, readonly=True, create=False, lock=False, readahead=False, max_dbs=0
        )
    except lmdb.Error as error:
        if "already open" in str(error):
            raise StorageError(
                f"{folder / DATA_FILE} is open in this process by other means than KeyedStore, or was written over "
                "while it was open; close it, and replace the whole folder"
            ) from error
        if error.code in _SYSTEM:
            raise StorageError(f"cannot read {folder}: {os.strerror(error.code)}") from error
        raise CheckpointError(damaged(str(folder), error)) from error
