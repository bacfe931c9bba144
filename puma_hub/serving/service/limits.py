"""How much the service takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from puma_hub.errors import ConfigurationError, shown


@dataclass(frozen=True)
class ServiceLimits:
    """Limits on requests.

    Args:
        max_batch_size: rows that are scored together.
        max_wait_ms: how long a row waits for others to be scored with.
        max_texts: texts that are continued together.
        queue: rows, and as many texts, that may wait. Further requests are refused with status 503.
        rate: requests a second of each key; None for any number.
        max_body: bytes of a request's body.
        max_rows: rows of a request.
        max_characters: of an item's text, a history or a chat together.
        max_tokens: new tokens of a text.
        timeout: seconds for a request, from its last byte to the answer.
        grace: seconds that accepted requests have when the service stops.

    Raises:
        ConfigurationError: a limit is not a number above 0, or more rows fit in a request than in the queue.
    """

    max_batch_size: int = 64
    max_wait_ms: float = 2.0
    max_texts: int = 8
    queue: int = 1024
    rate: float | None = None
    max_body: int = 2**20
    max_rows: int = 256
    max_characters: int = 100_000
    max_tokens: int = 1024
    timeout: float = 120.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "rate" and value is None:
                continue
            whole = one.type == "int"
            kinds = (int,) if whole else (int, float)
            least = 0 if one.name in ("max_wait_ms", "grace") else 1 if whole else 1e-3
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
                kind = "whole number" if whole else "number"
                raise ConfigurationError(f"{one.name} must be a {kind} of at least {least:g}, got {shown(value)}")
        if self.max_rows > self.queue:
            raise ConfigurationError(
                f"a request may have max_rows={self.max_rows} rows, and only queue={self.queue} may wait; raise queue "
                "or lower max_rows"
            )
