"""Answers with an error status."""

from __future__ import annotations


class HubError(Exception):
    """An answer with an error status, a message and, where the Hub has one, an error code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.body = {"error": message, **(body or {})}


def revision_not_found(revision: str) -> HubError:
    """The answer for a branch, tag or commit that does not exist."""
    return HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
