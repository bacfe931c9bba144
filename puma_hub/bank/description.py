"""What a bank's files are called, and ``bank.json``, which describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puma_hub.bank.provenance import Provenance
from puma_hub.errors import CheckpointError, PumaHubError
from puma_hub.storage import read_json, write_json

DESCRIPTION_FILE = "bank.json"
HEAD_FILE = "head.safetensors"
SHARDS = "data/train-*.parquet"
_SHARD = "data/train-{:05d}-of-{:05d}.parquet"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BankDescription:
    """What ``bank.json`` tells of a bank; no user is named in it.

    ``card``: SHA-256 of the card that was made along with it, so that one edited by hand is known.
    """

    provenance: Provenance
    users: int
    rows_per_shard: int
    rating_head: bool
    licence: str | None = None
    card: str | None = None

    @property
    def shards(self) -> list[str]:
        number = max(1, -(-self.users // self.rows_per_shard))
        return [_SHARD.format(shard, number) for shard in range(number)]

    @property
    def files(self) -> list[str]:
        """All files but the description and the card."""
        return [*self.shards, *([HEAD_FILE] if self.rating_head else [])]

    def write(self, folder: Path) -> None:
        facts = {
            "users": self.users,
            "rows_per_shard": self.rows_per_shard,
            "rating_head": self.rating_head,
            "license": self.licence,
            "card": self.card,
        }
        write_json(folder / DESCRIPTION_FILE, self.provenance.to_dict() | facts)

    @classmethod
    def read(cls, path: Path, where: str) -> BankDescription:
        """Read the file; unknown keys are left out. ``where`` is the bank's name for messages.

        Raises:
            BankError: the format is newer than this version of puma_hub.
            CheckpointError: the file is malformed.
        """
        data = read_json(path)
        try:
            provenance = Provenance.from_dict(data)
            strange = [key for key in ("task", "details") if not isinstance(data.get(key) or {}, Mapping)]
            if strange:
                raise TypeError(f"{strange[0]} is {data[strange[0]]!r}")
            users, rows, card = int(data["users"]), int(data["rows_per_shard"]), data.get("card")
            if users < 0 or rows < 1 or not (card is None or _SHA256.fullmatch(card)):
                raise ValueError(f"users {users}, rows_per_shard {rows}, card {card!r}")
            return cls(provenance, users, rows, bool(data["rating_head"]), data.get("license"), card)
        except PumaHubError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{DESCRIPTION_FILE} of {where} is malformed ({type(error).__name__}: {error}); make the bank again"
            ) from error

    def require_rows(self, rows: int, where: str) -> None:
        """Refuse shards that hold more or fewer users than the description tells.

        Raises:
            CheckpointError: they do.
        """
        if rows != self.users:
            raise CheckpointError(
                f"{where} says that it holds {self.users} users, but its files hold {rows}; they were changed by "
                "other means than puma_hub: make the bank again"
            )
