"""Writing keyed stores: always whole, in the order of their keys, beside the old one, which is then replaced.

LMDB could change a file in place. But what it deletes stays in free pages and in gaps of pages in use, in compact
copies too, and a reader without locks would not be safe.
"""

from __future__ import annotations

import heapq
import mmap
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from datasets.utils import tqdm

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.folder import write_head
from puma_hub.bank.keyed_environment import StoreFiles, lmdb_module, open_files
from puma_hub.bank.keyed_files import DATA_FILE, LAYOUT, SEAL, StoreDescription
from puma_hub.bank.keyed_records import KEY_BYTES, Packing, Record, damaged, key_of, require_dtype
from puma_hub.bank.merge import updated_provenance
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.rounding import ROUNDED, WHOLE, Rounding
from puma_hub.bank.users import require_known, user_list
from puma_hub.errors import BankError, CheckpointError
from puma_hub.storage import new_folder
from puma_hub.storage.layout import resolved
from puma_hub.storage.locking import alone
from puma_hub.storage.staging import bring_back, is_aside
from puma_hub.tasks import RatingHead

_LOOKED_AT = 4096
_SORTED_BYTES = 256 * 2**20  # of records in memory; more are sorted in files
_READ_BYTES = 256 * 2**10  # of each of these files at once
_COMMITTED_BYTES = 32 * 2**20
_SPARE_PAGES = 4096
_PAUSE = 0.01


def write_store(folder: Path, bank: PromptBank, dtype: str) -> None:
    """Write a store of a bank. What the folder held is replaced in one step.

    The bank is read in batches. Records are sorted by key, in parts of 256 MB that take as much space on the disk as
    the store.

    Raises:
        ConfigurationError: there is no such dtype.
        BankError: a value is not finite, or too large for the dtype.
        StorageError: the folder holds something other than a store, or cannot be written, or the disk is full.
        MissingDependencyError: LMDB is not installed.
    """
    lmdb_module()
    packing = Packing(require_dtype(dtype), bank.shape)
    with _alone(folder):
        provenance = _rounded(bank, dtype)
        with new_folder(folder, LAYOUT) as staged:
            records = _sorted(_records_of(bank, packing), staged)
            _write(staged, provenance, packing, bank.head, len(bank), records)


def delete_users(folder: Path, user_ids: Iterable[str]) -> None:
    """Implements :meth:`puma_hub.bank.keyed_store.KeyedStore.delete`."""
    users = user_list(user_ids)
    keys = [key_of(user) for user in users]
    with _alone(folder):
        old = _sound(folder)
        require_known(old.missing(keys), len(users), old.users)
        if users:
            with new_folder(folder, LAYOUT) as staged:
                left = old.users - len({*keys})
                _write(staged, old.provenance, old.packing, old.head, left, _without(old, {*keys}))


def update_store(folder: Path, bank: PromptBank) -> None:
    """Implements :meth:`puma_hub.bank.keyed_store.KeyedStore.update`."""
    if not isinstance(bank, PromptBank):
        raise BankError(f"store.update takes a PromptBank, got {type(bank).__name__}")
    keys = [key_of(user) for user in bank.user_ids]
    with _alone(folder):
        old = _sound(folder)
        provenance = updated_provenance(old.provenance, old.head, bank.provenance, bank.head, "store.update")
        if keys:
            with new_folder(folder, LAYOUT) as staged:
                records = heapq.merge(_without(old, {*keys}), _sorted(_records_of(bank, old.packing), staged))
                _write(staged, provenance, old.packing, old.head, old.users + len(old.missing(keys)), records)


def _sound(folder: Path) -> StoreFiles:
    """The store in a folder, when all of it has been looked at."""
    found = open_files(folder)
    found.description.verify(folder)
    return found


def _write(
    folder: Path,
    provenance: Provenance,
    packing: Packing,
    head: RatingHead | None,
    users: int,
    records: Iterable[Record],
) -> None:
    """Write all files of a store into an empty folder. The records are in the order of their keys."""
    lmdb, seal, written = lmdb_module(), secrets.token_bytes(16), 0
    write_head(folder, head)
    try:
        environment = lmdb.Environment(
            str(folder), map_size=_map_size(users, packing), lock=False, sync=False, metasync=False, lib_version=0
        )
        with environment, tqdm(desc="writing", unit="prompt", total=users) as bar:
            with environment.begin(write=True) as transaction:
                transaction.put(SEAL, seal, append=True)
            for part in _parts(records, packing.record_bytes):
                with environment.begin(write=True) as transaction:
                    written += transaction.cursor().putmulti(part, append=True)[1]
                bar.update(len(part))
            environment.sync(True)
    except lmdb.Error as error:
        raise OSError(error.code, error.reason) from error  # of which new_folder makes a StorageError
    if written != users:
        raise CheckpointError(damaged(str(folder), f"{written} prompts of {users} users"))
    StoreDescription.of_files(folder, provenance, users, packing.dtype, seal).write(folder)


def _map_size(users: int, packing: Packing) -> int:
    """More than the file will have: a bound on it, which takes up addresses and no space."""
    page = max(4096, mmap.PAGESIZE)
    return page * ((users + 1) * (2 + packing.record_bytes // page) + _SPARE_PAGES)


def _records_of(bank: PromptBank, packing: Packing) -> Iterator[Record]:
    one = 4 * bank.shape[0] * bank.shape[1]
    for user_ids, prompts in bank.batches(max(1, min(_LOOKED_AT, _COMMITTED_BYTES // one))):
        yield from packing.records(user_ids, prompts)


def _without(files: StoreFiles, keys: set[bytes]) -> Iterator[Record]:
    return (record for record in files.records() if record[0] not in keys)


def _parts(records: Iterable[Record], record_bytes: int) -> Iterator[list[Record]]:
    most, part = max(1, min(_LOOKED_AT, _COMMITTED_BYTES // record_bytes)), []
    for record in records:
        part.append(record)
        if len(part) == most:
            yield part
            part = []
    yield part


def _sorted(records: Iterable[Record], folder: Path) -> Iterator[Record]:
    """Records in the order of their keys. What is too much for memory goes through unnamed files in ``folder``."""
    with ExitStack() as files:
        runs, part, size = [], [], 0
        for record in records:
            part.append(record)
            size += KEY_BYTES + len(record[1])
            if size >= _SORTED_BYTES:
                part.sort()
                runs.append(_kept(part, files.enter_context(TemporaryFile(dir=folder))))
                part, size = [], 0
        part.sort()
        yield from heapq.merge(*runs, part)


def _kept(records: list[Record], file: IO[bytes]) -> Iterator[Record]:
    """The same records, from a file."""
    one = KEY_BYTES + len(records[0][1])
    file.writelines(key + value for key, value in records)
    file.seek(0)

    def read() -> Iterator[Record]:
        while block := file.read(one * max(1, _READ_BYTES // one)):
            for start in range(0, len(block), one):
                yield block[start : start + KEY_BYTES], block[start + KEY_BYTES : start + one]

    return read()


def _rounded(bank: PromptBank, dtype: str) -> Provenance:
    """The bank's provenance, which tells the coarser rounding where prompts had been rounded before."""
    if dtype == WHOLE or not len(bank):
        return bank.provenance
    few = np.arange(min(len(bank), _LOOKED_AT))
    new, old = Rounding.fitted(dtype, bank.prompts_at(few)), Rounding.of(bank.provenance.details)
    if new is None or (old is not None and (old.error or 0.0) >= (new.error or 0.0)):
        return bank.provenance
    return replace(bank.provenance, details={**bank.provenance.details, ROUNDED: new.to_dict()})


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Wait until no other process changes the store in this folder, and keep others waiting."""
    final = resolved(folder)
    path = final / DATA_FILE

    def look_again(error: OSError) -> bool:
        bring_back(final)
        if isinstance(error, FileNotFoundError) and (path.exists() or is_aside(final)):
            time.sleep(_PAUSE)
            return True
        return False

    return alone(path, look_again)
