"""Errors as HTTP answers, in the shape of OpenAI's API."""

from __future__ import annotations

import logging
import math
import traceback
from dataclasses import dataclass, field
from typing import Any

import msgspec

from puma_hub.errors import (
    InteractionsError,
    PumaHubError,
    ServingError,
    TemplateError,
    UnknownUserError,
)

_log = logging.getLogger(__name__)
_INVALID, _SERVER = "invalid_request_error", "server_error"


class Refusal(PumaHubError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        code: a word for programs.
        param: the field that is wrong.
        retry_after: seconds after which the same request may work.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        kind: str = _INVALID,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer: JSON unless ``media_type`` says otherwise."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    @classmethod
    def of(cls, content: Any) -> Answer:
        return cls(msgspec.json.encode(content))

    @classmethod
    def of_refusal(cls, refusal: Refusal) -> Answer:
        return cls(msgspec.json.encode({"error": refusal.error}), refusal.status, refusal.headers)


def unknown_user() -> Refusal:
    """The user has no prompt. The message does not name the user."""
    return Refusal(
        404,
        "the user is not among those whose prompts are served; leave the user out, or start the service with "
        "--unknown-users mean",
        "unknown_user",
        param="user",
    )


def overloaded(what: str, seconds: float) -> Refusal:
    return Refusal(503, what, "overloaded", kind=_SERVER, retry_after=seconds)


def stopping() -> Refusal:
    return overloaded("the service is stopping; ask another replica, or again later", 5)


def too_late(seconds: float) -> Refusal:
    return Refusal(
        504, f"there was no answer within {seconds:g} seconds; ask again, or for less", "timeout", kind=_SERVER
    )


def refusal_of(error: BaseException) -> Refusal:
    """How an error is answered. What is not the client's doing is logged, without its message: that may name a user."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UnknownUserError):
        return unknown_user()
    if isinstance(error, (InteractionsError, TemplateError)):
        return Refusal(400, str(error), "unusable_text")
    if isinstance(error, ServingError):
        _log.error("the engine failed: %s", error)
        return Refusal(502, "the engine behind this service failed", "engine_error", kind=_SERVER)
    reason = f": {error}" if isinstance(error, PumaHubError) else ""  # ours name no users
    places = "; ".join(f"{frame.name}, line {frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:])
    _log.error("%s%s (%s)", type(error).__name__, reason, places)
    return Refusal(500, "the service failed; its log says more", "internal_error", kind=_SERVER)
