"""API keys, and how many requests a second each may make."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.serving.service.refusal import Refusal

VARIABLE = "PUMA_HUB_API_KEYS"
_LEAST = 16
_KEY = re.compile(r"[!-~]+")
_REMEDY = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class ApiKeys:
    """The keys of a service. Only their hashes are in memory.

    Args:
        keys: none for a service that anyone may ask.

    Raises:
        ConfigurationError: a key is too short, or not of printable ASCII without spaces.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        given = list(keys)
        for number, key in enumerate(given, 1):
            if len(key) < _LEAST or not _KEY.fullmatch(key):
                raise ConfigurationError(
                    f"API key {number} of {len(given)} must be at least {_LEAST} ASCII characters without spaces; "
                    f"{_REMEDY}"
                )
        self._hashes = list(dict.fromkeys(map(_hash, given)))

    @classmethod
    def load(cls, path: str | None) -> ApiKeys:
        """The keys of a file, one a line; without a file, those of ``PUMA_HUB_API_KEYS``, apart by commas or spaces.

        Raises:
            StorageError: the file cannot be read.
            ConfigurationError: it has no key, or a key cannot be used.
        """
        if path is None:
            return cls(os.environ.get(VARIABLE, "").replace(",", " ").split())
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise StorageError(f"{path} is no text in UTF-8; give a file of one API key a line") from error
        except OSError as error:
            raise StorageError(f"cannot read the API keys in {path}: {error.strerror}") from error
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise ConfigurationError(f"{path} has no API key; write one a line, {_REMEDY}")
        return cls(keys)

    def __len__(self) -> int:
        return len(self._hashes)

    def holder(self, authorization: bytes) -> int:
        """The number of the key in the header ``Authorization``; 0 without keys.

        Every key is compared, in time that does not depend on what was sent.

        Raises:
            Refusal: there is no such key.
        """
        if not self._hashes:
            return 0
        scheme, _, key = authorization.partition(b" ")
        sent = hashlib.sha256(key.strip()).digest()
        holder = -1
        for number, known in enumerate(self._hashes):
            if hmac.compare_digest(known, sent):
                holder = number
        if scheme.lower() != b"bearer" or holder < 0:
            raise Refusal(
                401,
                "send a valid API key, with the header Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return holder


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class RateLimit:
    """A token bucket for each key: ``rate`` requests a second, and as many at once after a pause.

    Args:
        rate: None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._most = max(1.0, rate or 0)
        self._buckets: dict[int, tuple[float, float]] = {}

    def take(self, holder: int) -> None:
        """Count a request.

        Raises:
            Refusal: there were too many.
        """
        if self._rate is None:
            return
        now = time.monotonic()
        tokens, then = self._buckets.get(holder, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[holder] = tokens, now
            raise Refusal(
                429,
                f"more than {self._rate:g} requests a second; ask again later",
                "rate_limit_exceeded",
                kind="requests",
                retry_after=(1 - tokens) / self._rate,
            )
        self._buckets[holder] = tokens - 1, now
