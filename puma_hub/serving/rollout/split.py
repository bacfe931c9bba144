"""Which users the candidate answers: a share of all of them, drawn by a salted hash, and users of a list."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from puma_hub.errors import ConfigurationError, shown
from puma_hub.limits import require_text

_WHOLE = 100.0
_POSITION_BYTES = 8
_MARK = re.compile(r"[0-9a-f]{32}")
_LONGEST_SALT = 200
_MOST_LISTED = 1_000_000


@dataclass(frozen=True)
class Split:
    """How users are split between two versions.

    A user's position, from 0 to 100, is SHA-256 of salt and id. The candidate has the users whose position is below
    the share. So they are the same at every start, in every process, and a larger share only adds users. Listed users
    are kept as salted hashes: the file shows no id, but who has it can find out whether an id they know is listed.

    Args:
        share: of all users, in per cent.
        listed: marks of users that the candidate answers whatever the share is, see :meth:`mark`.
        salt: text. Another salt draws other users.

    Raises:
        ConfigurationError: a field is not what it must be.
    """

    share: float = 0.0
    listed: frozenset[str] = frozenset()
    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        share = self.share
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not math.isfinite(share) or not 0 <= share <= _WHOLE:
            raise ConfigurationError(f"a share is a number from 0 to 100, in per cent of all users, got {shown(share)}")
        require_text(self.salt, "the salt", _LONGEST_SALT)
        if len(self.listed) > _MOST_LISTED:
            raise ConfigurationError(f"at most {_MOST_LISTED} users can be listed, got {len(self.listed)}; use a share")
        if not all(isinstance(mark, str) and _MARK.fullmatch(mark) for mark in self.listed):
            raise ConfigurationError("listed users are marks of 32 hexadecimal digits; puma-hub rollout makes them")

    @property
    def everyone(self) -> bool:
        return self.share == _WHOLE

    @property
    def nobody(self) -> bool:
        return self.share == 0 and not self.listed

    def takes(self, user_id: str) -> bool:
        """Whether the candidate answers this user."""
        digest = self._digest(user_id)
        position = int.from_bytes(digest[:_POSITION_BYTES], "big") / 2 ** (8 * _POSITION_BYTES) * _WHOLE
        return self.everyone or position < self.share or digest[:16].hex() in self.listed

    def mark(self, user_id: str) -> str:
        """What stands for a user in ``listed``: 32 hexadecimal digits of the salted hash."""
        return self._digest(user_id)[:16].hex()

    def marks(self, user_ids: Iterable[str]) -> frozenset[str]:
        return frozenset(map(self.mark, user_ids))

    def _digest(self, user_id: str) -> bytes:
        return hashlib.sha256(f"{self.salt}\0{user_id}".encode("utf-8", "surrogatepass")).digest()

    @classmethod
    def from_dict(cls, data: object) -> Split:
        """Read what :meth:`to_dict` made.

        Raises:
            ConfigurationError: it is something else.
        """
        if not isinstance(data, Mapping) or set(data) != {"share", "listed", "salt"}:
            raise ConfigurationError(f"a split is a mapping with share, listed and salt; got {shown(data)}")
        listed = data["listed"]
        if not isinstance(listed, list) or not all(isinstance(mark, str) for mark in listed):
            raise ConfigurationError(f"listed must be a list of marks, got {shown(listed)}")
        return cls(data["share"], frozenset(listed), data["salt"])

    def to_dict(self) -> dict[str, Any]:
        return {"share": self.share, "listed": sorted(self.listed), "salt": self.salt}
