"""The record of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Request:
    """One request; ``sent`` and ``received`` count the bytes of the bodies."""

    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    user_agent: str
    user: str | None = None
    status: int = 0
    sent: int = 0
    received: int = 0
    repo: str | None = None  # of a request for a file
    filename: str | None = None
