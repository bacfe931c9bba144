"""The names of a bank's files, and ``bank.json``, which describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puma_hub.bank.provenance import Provenance
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, PumaHubError, shown
from puma_hub.limits import MAX_FILES, MAX_USERS, require_text, require_whole
from puma_hub.storage import read_json, write_json

DESCRIPTION_FILE = "bank.json"
HEAD_FILE = "head.safetensors"
HEADS = "head-*.safetensors"
SHARDS = "data/train-*.parquet"
_SHARD = "data/train-{:05d}-of-{:05d}{}.parquet"
_SUFFIX = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def shard_names(number: int, suffix: str | None = None) -> list[str]:
    """The names of ``number`` files of rows."""
    return [_SHARD.format(shard, number, _ending(suffix)) for shard in range(number)]


@dataclass(frozen=True)
class BankDescription:
    """The contents of ``bank.json``. It names no user.

    ``card`` is the SHA-256 of the generated card. It shows whether the card was edited by hand later. ``migration`` is
    the hash of what a migration made the files from. ``suffix``, 16 hexadecimal digits, ends the names of the files of
    this bank where those of the bank before it are beside them for a while, as in a bucket.
    """

    provenance: Provenance
    users: int
    rows_per_shard: int
    rating_head: bool
    license: str | None = None
    card: str | None = None
    migration: str | None = None
    suffix: str | None = None

    @property
    def shards(self) -> list[str]:
        return shard_names(_files(self.users, self.rows_per_shard), self.suffix)

    @property
    def head_file(self) -> str:
        """The name of the rating head's file, if there is one."""
        stem, dot, ending = HEAD_FILE.partition(".")
        return stem + _ending(self.suffix) + dot + ending

    @property
    def files(self) -> list[str]:
        """All files except the description and the card."""
        return [*self.shards, *([self.head_file] if self.rating_head else [])]

    def write(self, folder: Path) -> None:
        facts = {
            "users": self.users,
            "rows_per_shard": self.rows_per_shard,
            "rating_head": self.rating_head,
            "license": self.license,
            "card": self.card,
            **({} if self.migration is None else {"migration": self.migration}),
            **({} if self.suffix is None else {"suffix": self.suffix}),
        }
        write_json(folder / DESCRIPTION_FILE, self.provenance.to_dict() | facts)

    @classmethod
    def read(cls, path: Path, where: str) -> BankDescription:
        """Read the file, without unknown keys. ``where`` names the bank in messages.

        Raises:
            BankError: the format is newer than this version of puma_hub, or the provenance is not a bank's.
            CheckpointError: the file is malformed.
        """
        data = read_json(path)
        with well_formed(f"{DESCRIPTION_FILE} of {where}", "make the bank again"):
            return cls(
                Provenance.from_dict(data),
                users := require_whole(data.get("users"), "users", MAX_USERS, least=0),
                _require_rows(data.get("rows_per_shard"), users),
                _require_flag(data.get("rating_head")),
                None if data.get("license") is None else require_text(data["license"], "license"),
                None if data.get("card") is None else require_hash(data["card"], "card"),
                None if data.get("migration") is None else require_text(data["migration"], "migration"),
                None if data.get("suffix") is None else _require_suffix(data["suffix"]),
            )

    def require_rows(self, rows: int, where: str) -> None:
        """Check that the shards hold as many users as the description says.

        Raises:
            CheckpointError: the numbers differ.
        """
        if rows != self.users:
            raise CheckpointError(
                f"{where} should hold {self.users} users, but its files hold {rows}; they were not changed by "
                "puma_hub: make the bank again"
            )


@contextmanager
def well_formed(file: str, remedy: str) -> Iterator[None]:
    """Say that a file is malformed, by whatever error reading its contents ends with.

    Raises:
        BankError: as it was raised.
        CheckpointError: in place of other errors.
    """
    try:
        yield
    except BankError:
        raise
    except (PumaHubError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = str(error) if isinstance(error, PumaHubError) else shown(error)
        raise CheckpointError(f"{file} is malformed: {reason}; {remedy}") from error


def require_hash(value: object, what: str) -> str:
    """``value``, if it is a SHA-256 in hexadecimal.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ConfigurationError(f"{what} must be a SHA-256 in hexadecimal, got {shown(value)}")
    return value


def _ending(suffix: str | None) -> str:
    return "" if suffix is None else f"-{suffix}"


def _require_suffix(value: object) -> str:
    if not isinstance(value, str) or not _SUFFIX.fullmatch(value):
        raise ConfigurationError(f"suffix must be 16 hexadecimal digits, got {shown(value)}")
    return value


def _files(users: int, rows_per_shard: int) -> int:
    return max(1, -(-users // rows_per_shard))


def _require_rows(value: object, users: int) -> int:
    rows = require_whole(value, "rows_per_shard", MAX_USERS)
    if _files(users, rows) > MAX_FILES:
        raise ConfigurationError(f"{users} users, {rows} in each file, would need more than {MAX_FILES} files")
    return rows


def _require_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"rating_head must be true or false, got {shown(value)}")
    return value
