"""The files of a keyed store: their names, ``store.json``, and what binds them to each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from puma_hub._version import too_new
from puma_hub.bank.description import HEAD_FILE, require_hash, well_formed
from puma_hub.bank.folder import load_head
from puma_hub.bank.keyed_records import Packing, damaged, require_dtype
from puma_hub.bank.provenance import Provenance
from puma_hub.errors import BankError, CheckpointError, StorageError
from puma_hub.limits import MAX_BYTES, MAX_FORMAT, MAX_USERS, require_whole
from puma_hub.storage import read_json, write_json
from puma_hub.storage.layout import Layout
from puma_hub.tasks import RatingHead

DESCRIPTION_FILE = "store.json"
DATA_FILE = "data.mdb"
SEAL = b"\0"
"""The key, before all users' keys, of random bytes that ``store.json`` holds too: it belongs to this file of data."""
_FORMAT = 1
_READ_BYTES = 2**20
_LOCK_FILE = "lock.mdb"  # of other programs that read the file by LMDB's own means

LAYOUT = Layout(
    "a keyed store", (DESCRIPTION_FILE, DATA_FILE), (HEAD_FILE, _LOCK_FILE), keys=("store_format", "users", "dtype")
)


@dataclass(frozen=True)
class StoreDescription:
    """The contents of ``store.json``: the bank's provenance, and how the prompts are kept. It names no user."""

    provenance: Provenance
    users: int
    dtype: str
    seal: bytes
    data_bytes: int
    data_sha256: str
    head_sha256: str | None

    @classmethod
    def of_files(cls, folder: Path, provenance: Provenance, users: int, dtype: str, seal: bytes) -> StoreDescription:
        """The description of the data and the head in a folder."""
        data, head = folder / DATA_FILE, folder / HEAD_FILE
        hashes = _sha256(data), _sha256(head) if head.is_file() else None
        return cls(provenance, users, dtype, seal, data.stat().st_size, *hashes)

    @property
    def packing(self) -> Packing:
        return Packing(self.dtype, (self.provenance.prompt_length, self.provenance.model.hidden_size))

    def write(self, folder: Path) -> None:
        facts = {
            "store_format": _FORMAT,
            "users": self.users,
            "dtype": self.dtype,
            "seal": self.seal.hex(),
            "data_bytes": self.data_bytes,
            "data_sha256": self.data_sha256,
            "head_sha256": self.head_sha256,
        }
        write_json(folder / DESCRIPTION_FILE, self.provenance.to_dict() | facts)

    @classmethod
    def read(cls, folder: Path) -> StoreDescription:
        """Read the file.

        Raises:
            BankError: the format is newer than this version of puma_hub, or the provenance is not a bank's.
            CheckpointError: the file is malformed.
        """
        data = read_json(folder / DESCRIPTION_FILE)
        with well_formed(f"{DESCRIPTION_FILE} of {folder}", "make the store again with bank.to_lmdb"):
            version = require_whole(data.get("store_format"), "store_format", MAX_FORMAT)
            if version > _FORMAT:
                raise BankError(too_new("this keyed store", version, _FORMAT, data.get("puma_hub_version")))
            found = cls(
                Provenance.from_dict(data),
                require_whole(data.get("users"), "users", MAX_USERS, least=0),
                require_dtype(data.get("dtype")),
                bytes.fromhex(data["seal"]),
                require_whole(data.get("data_bytes"), "data_bytes", MAX_BYTES),
                require_hash(data.get("data_sha256"), "data_sha256"),
                None if data.get("head_sha256") is None else require_hash(data["head_sha256"], "head_sha256"),
            )
            if found.users * found.packing.record_bytes > found.data_bytes:
                raise CheckpointError(
                    f"{found.data_bytes} bytes of data cannot hold {found.users} prompts of its shape"
                )
            return found

    def read_head(self, folder: Path) -> RatingHead | None:
        """The rating head, or None if there is none.

        Raises:
            CheckpointError: the file is missing, damaged, or of another store.
        """
        if self.head_sha256 is None:
            return None
        head = load_head(folder / HEAD_FILE, self.provenance.answers)
        if _sha256(folder / HEAD_FILE) != self.head_sha256:
            raise CheckpointError(damaged(str(folder), f"{HEAD_FILE} is of another store"))
        return head

    def verify(self, folder: Path) -> None:
        """Read all data, without LMDB, which follows what is written in a file wherever it leads.

        Raises:
            CheckpointError: it is not what was written.
        """
        if _sha256(folder / DATA_FILE) != self.data_sha256:
            raise CheckpointError(damaged(str(folder), f"{DATA_FILE} is not what was written"))


def require_store(folder: Path) -> None:
    """Check that a folder holds the files of a store.

    Raises:
        StorageError: it does not exist, or holds something else.
        CheckpointError: it lacks the data.
    """
    if not folder.is_dir():
        raise StorageError(f"no keyed store at {folder}: the folder does not exist")
    if not (folder / DESCRIPTION_FILE).is_file():
        raise StorageError(
            f"{folder} is not a keyed store: {DESCRIPTION_FILE} missing; write one with bank.to_lmdb(folder)"
        )
    if not (folder / DATA_FILE).is_file():
        raise CheckpointError(damaged(str(folder), f"{DATA_FILE} is missing"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
