"""What stands around all endpoints: who may ask, how often, and errors in one shape."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puma_hub.serving.service.refusal import Answer, Refusal, refusal_of
from puma_hub.serving.service.service import Service
from puma_hub.serving.service.waiting import Disconnected

Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]

_GUARDED = "/v1/"
_MEASURED = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/score",
        "/v1/deployment",
        "/healthz",
        "/readyz",
        "/metrics",
    }
)
_HERE = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
_GONE = 499  # in figures only: the client went away, and nothing was sent


class Guard:
    """Admits requests, turns errors into answers and counts both.

    Nothing is logged of a request but errors of the service itself, without their words: they might name a user.

    Args:
        app: answers all requests but the ``posts``.
        posts: what answers a POST, by its path. Most requests are for these. FastAPI's layers would take as long as all
            the rest that is done for a request outside the LLM, so they are called directly.
    """

    def __init__(self, app: ASGIApp, service: Service, posts: Mapping[str, Endpoint]) -> None:
        self._app, self._service, self._posts = app, service, posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), _GONE

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._admit(scope)
            endpoint = self._posts.get(scope["path"]) if scope["method"] == "POST" else None
            if endpoint is None:
                await self._app(scope, receive, counted)
            else:
                answer = await endpoint(Request(scope, receive))
                await answer(scope, receive, counted)
        except Disconnected:
            pass
        except Exception as error:
            if status == _GONE:
                await send_answer(Answer.of_refusal(refusal_of(error)), counted)
        finally:
            name = scope["path"] if scope["path"] in _MEASURED else "other"
            self._service.meters.request(name, status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if self._service.only_here and _host(headers.get(b"host", b"")) not in _HERE:
            raise Refusal(
                403,
                "this service has no API keys, so it answers only requests to localhost; start it with API keys",
                "forbidden_host",
            )
        if scope["path"].startswith(_GUARDED):
            holder = self._service.keys.holder(headers.get(b"authorization", b""))
            self._service.rate.take(holder)


async def send_answer(answer: Answer, send: Send) -> None:
    """Send a whole answer."""
    headers: list[Any] = [
        (b"content-type", answer.media_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        *((name.encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _host(header: bytes) -> bytes:
    """The host in a header, without its port."""
    return header.rpartition(b":")[0] if header.rfind(b":") > header.rfind(b"]") else header
