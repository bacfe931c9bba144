"""Users and their rights: two users, an organisation, tokens that read and tokens that write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

from tests.hub_server.errors import HubError
from tests.hub_server.storage import Bucket, Repository

USERS = ("alice", "bob")
# Organisation -> the role of its members.
ORGANISATIONS: dict[str, dict[str, str]] = {"lab": {"alice": "write", "bob": "read"}}


@dataclass(frozen=True)
class Caller:
    """The sender of a request; ``user`` is None without a token."""

    user: str | None = None
    right: str = "read"

    def owns(self, namespace: str) -> bool:
        """Whether the namespace is the caller's, or an organisation's that the caller may write to."""
        return self.user is not None and (
            self.user == namespace or ORGANISATIONS.get(namespace, {}).get(self.user) == "write"
        )

    def belongs_to(self, namespace: str) -> bool:
        return self.user is not None and (self.user == namespace or self.user in ORGANISATIONS.get(namespace, {}))

    def sees(self, repository: Repository | Bucket) -> bool:
        return not repository.private or self.belongs_to(repository.namespace)


def token(user: str, right: str = "write") -> str:
    """A user's token. It looks like a real one, so that a leak into logs is noticed."""
    if user not in USERS or right not in ("read", "write"):
        raise ValueError(f"no token for user {user!r} with right {right!r}")
    return "hf_" + hashlib.sha256(f"{user} {right}".encode()).hexdigest()[:34]


_STORAGE = "xet_"
_ANONYMOUS = f"{_STORAGE}anonymous"


def storage_token(caller: Caller, right: str) -> str:
    """A caller's token for the storage behind buckets."""
    return _ANONYMOUS if caller.user is None else _STORAGE + token(caller.user, right)


_CALLERS = {token(user, right): Caller(user, right) for user in USERS for right in ("read", "write")}


def identify(authorization: str | None) -> Caller:
    """The caller with this Authorization header. An unknown token is answered with 401."""
    if not authorization:
        return Caller()
    given = authorization.removeprefix("Bearer ").strip()
    if given == _ANONYMOUS:
        return Caller()
    caller = _CALLERS.get(given.removeprefix(_STORAGE))
    if caller is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return caller


_Seen = TypeVar("_Seen", Repository, Bucket)


def require_read(caller: Caller, repository: _Seen | None) -> _Seen:
    """Check that the caller may see it; otherwise raise the Hub's error for a missing one."""
    if repository is not None and caller.sees(repository):
        return repository
    if caller.user is None:  # without a token, the Hub does not show whether a repository exists
        raise HubError(401, "Invalid username or password.", code="RepoNotFound")
    raise HubError(404, "Repository not found", code="RepoNotFound")


def require_content(caller: Caller, repository: Repository) -> None:
    """Check that the caller may read the files of a gated repository."""
    if not repository.gated or caller.belongs_to(repository.namespace) or caller.user in repository.granted:
        return
    where = f"Access to {repository.type} {repository.id} is restricted"
    if caller.user is None:
        raise HubError(401, f"{where}. You must have access to it and be authenticated.", code="GatedRepo")
    raise HubError(403, f"{where} and you are not in the authorized list.", code="GatedRepo")


def require_write(caller: Caller, namespace: str) -> None:
    if caller.user is None:
        raise HubError(401, "Invalid username or password.")
    if caller.right != "write":
        raise HubError(403, "Forbidden: this token only reads, a write token is needed.")
    if not caller.owns(namespace):
        raise HubError(403, f"Forbidden: you don't have the rights to write under the namespace {namespace!r}")


def describe(caller: Caller) -> dict[str, object]:
    """The answer of whoami-v2."""
    if caller.user is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    organisations = [
        {"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": members[caller.user]}
        for name, members in ORGANISATIONS.items()
        if caller.user in members
    ]
    return {
        "type": "user",
        "id": caller.user,
        "name": caller.user,
        "fullname": caller.user,
        "orgs": organisations,
        "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": caller.right}},
    }
