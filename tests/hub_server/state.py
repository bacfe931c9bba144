"""The server's state, and the types of a request and of an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.hub_server.accounts import Caller
from tests.hub_server.errors import HubError
from tests.hub_server.records import Request
from tests.hub_server.storage import Bucket, Repository
from tests.hub_server.xet_store import XetStore


@dataclass
class State:
    """The repositories and buckets; ``lock`` is held while a request is answered."""

    endpoint: str
    page_size: int = 1000
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)  # by their ids in lower case
    xet: XetStore = field(default_factory=XetStore)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def url(self, repo_type: str, repo_id: str) -> str:
        """The address of a repository's page."""
        return f"{self.endpoint}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}"

    def find(self, repo_type: str, repo_id: str) -> Repository | None:
        """Find a repository by its name, in upper or lower case, as on the Hub."""
        return self.repositories.get((repo_type, repo_id.lower()))

    def add(self, repository: Repository) -> Repository:
        self.repositories[repository.type, repository.id.lower()] = repository
        return repository

    def remove(self, repository: Repository) -> None:
        del self.repositories[repository.type, repository.id.lower()]


@dataclass
class Call:
    """A request that is being answered."""

    state: State
    caller: Caller
    method: str
    path: str  # percent-encoded
    query: dict[str, list[str]]
    body: bytes
    record: Request
    tamper: Callable[[bytes], bytes] | None = None

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise HubError(400, "The body must be a JSON object")
        return value


@dataclass
class Reply:
    """An answer. For HEAD, ``length`` is given in place of the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})
