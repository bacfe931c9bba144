"""The endpoints, as a FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puma_hub._version import __version__
from puma_hub.errors import UnknownUserError
from puma_hub.serving.service.answers import CHAT, TEXT, Shape, TextAnswer, event_of_error
from puma_hub.serving.service.backend import Row, TextRequest, TextStream
from puma_hub.serving.service.fields import chat_body, request_of_chat, request_of_texts, text_body
from puma_hub.serving.service.guard import Endpoint, Guard, send_answer
from puma_hub.serving.service.json_body import parsed, read_body
from puma_hub.serving.service.openapi import described, takes
from puma_hub.serving.service.refusal import Answer, Refusal, refusal_of
from puma_hub.serving.service.service import Service
from puma_hub.serving.service.waiting import Disconnected, wanted


class _Whole(Response):
    """A whole answer, sent as it is."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(self.answer, send)


class _Events(Response):
    """Server-sent events. Errors after the beginning are the last event."""

    def __init__(self, chunks: AsyncIterator[bytes], seconds: float) -> None:
        self._chunks, self._seconds = chunks, seconds
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would keep chunks back
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = b""
        try:
            await wanted(self._sent(send), receive, self._seconds)
        except Disconnected:
            raise
        except Exception as error:
            last = event_of_error(refusal_of(error).error)
        await send({"type": "http.response.body", "body": last})

    async def _sent(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


class Endpoints:
    """What the service answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def score(self, request: Request) -> Response:
        """Score one row, or each row of a list, in order. A row of a list that cannot be scored has an `error`."""
        fields, backend, limits = self._service.fields, self._service.backend, self._service.limits
        value = await self._json(request)
        if not isinstance(value, list):
            (found,) = await wanted(backend.score([fields.row(value)]), request.receive, limits.timeout)
            self._count([found])
            if isinstance(found, Exception):
                raise found
            return _Whole(Answer.of(found))
        if len(value) > limits.max_rows:
            raise Refusal(400, f"a request may have {limits.max_rows} rows, got {len(value)}", "too_many_rows")
        results: list[Any] = []
        rows: list[Row] = []
        for one in value:
            try:
                rows.append(fields.row(one))
                results.append(None)
            except Refusal as refusal:
                results.append(refusal)
        if rows:
            scored = await wanted(backend.score(rows), request.receive, limits.timeout)
            self._count(scored)
            remaining = iter(scored)
            results = [next(remaining) if one is None else one for one in results]
        shown = [{"error": refusal_of(one).error} if isinstance(one, Exception) else one for one in results]
        return _Whole(Answer.of(shown))

    async def chat(self, request: Request) -> Response:
        """Continue a chat with the prompt of the user in the field `user`, as OpenAI's endpoint of this name."""
        body = chat_body(await self._json(request))
        return await self._text(request, body, request_of_chat(body, self._service.limits), CHAT)

    async def complete(self, request: Request) -> Response:
        """Continue texts with the prompt of the user in the field `user`, as OpenAI's endpoint of this name."""
        body = text_body(await self._json(request))
        return await self._text(request, body, request_of_texts(body, self._service.limits), TEXT)

    async def models(self) -> Response:
        """The one model that is served."""
        return _Whole(Answer.of({"object": "list", "data": [self._model()]}))

    async def model(self, name: str) -> Response:
        """The model, by its name."""
        self._service.require_model(name)
        return _Whole(Answer.of(self._model()))

    async def deployment(self) -> Response:
        """Which versions are served and who gets which; status 404 without a deployment file."""
        standing = self._service.backend.standing()
        if standing is None:
            raise Refusal(404, "this service has one version and no deployment file", "not_found")
        return _Whole(Answer.of(standing))

    async def alive(self) -> Response:
        """Status 200 while the process runs; `ready` says whether the model is loaded."""
        return _Whole(Answer.of({"status": "ok", "ready": self._service.ready}))

    async def ready(self) -> Response:
        """Status 200 when the model is loaded, and 503 before that and while the service stops."""
        _ = self._service.backend
        return _Whole(Answer.of({"status": "ok", "ready": True}))

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        page, kind = self._service.meters.page()
        return _Whole(Answer(page, media_type=kind))

    async def _json(self, request: Request) -> Any:
        limits = self._service.limits
        return parsed(await read_body(request.scope, request.receive, limits.max_body, limits.timeout))

    async def _text(self, request: Request, body: Any, asked: TextRequest, shape: Shape) -> Response:
        service, seconds = self._service, self._service.limits.timeout
        service.require_model(body.model)
        options = body.stream_options
        if options is not None and not body.stream:
            raise Refusal(400, "stream_options needs stream: true", "invalid_value", param="stream_options")
        backend = service.backend
        answers = len(asked.texts) * asked.sampling.n
        answer = TextAnswer(shape, service.model, answers)

        async def begun() -> TextStream:
            try:
                stream = await backend.stream(asked)
            except UnknownUserError:
                service.meters.unknown_user()
                raise
            if stream.cold_start:
                service.meters.unknown_user()
            return stream

        async def whole() -> dict[str, Any]:
            return await answer.whole(await begun())

        async def chunks(stream: TextStream) -> AsyncIterator[bytes]:
            try:
                async with aclosing(answer.chunks(stream, bool(options and options.include_usage))) as found:  # type: ignore[type-var]
                    async for chunk in found:
                        yield chunk
            finally:
                service.meters.wrote(answer.new_tokens)

        if body.stream:
            return _Events(chunks(await wanted(begun(), request.receive, seconds)), seconds)
        found = await wanted(whole(), request.receive, seconds)
        service.meters.wrote(answer.new_tokens)
        return _Whole(Answer.of(found))

    def _count(self, scored: list[Any]) -> None:
        for one in scored:
            if isinstance(one, UnknownUserError) or (isinstance(one, dict) and one.get("cold_start")):
                self._service.meters.unknown_user()

    def _model(self) -> dict[str, Any]:
        return {"id": self._service.model, "object": "model", "created": self._service.started, "owned_by": "puma-hub"}


def create_app(service: Service) -> Guard:
    """The ASGI application that answers for ``service``."""
    app = FastAPI(title="puma-hub", version=__version__, redirect_slashes=False)
    found = Endpoints(service)
    posts: dict[str, Endpoint] = {
        "/v1/score": found.score,
        "/v1/chat/completions": found.chat,
        "/v1/completions": found.complete,
    }
    for path, endpoint in posts.items():
        app.post(path, openapi_extra=takes(path))(endpoint)
    app.get("/v1/models")(found.models)
    app.get("/v1/models/{name:path}")(found.model)
    app.get("/v1/deployment")(found.deployment)
    app.get("/healthz")(found.alive)
    app.get("/readyz")(found.ready)
    app.get("/metrics")(found.metrics)
    app.add_exception_handler(HTTPException, _unknown_address)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(Exception, _refused)
    app.openapi = described(app)  # type: ignore[method-assign]
    return Guard(app, service, posts)


async def _refused(request: Request, error: Exception) -> Response:
    return _Whole(Answer.of_refusal(refusal_of(error)))


async def _unknown_address(request: Request, error: Exception) -> Response:
    """An address or a method that is not served; the address is not repeated, since it might name a user."""
    status = getattr(error, "status_code", 404)
    said = "this address takes another method" if status == 405 else "there is nothing at this address"
    code = "method_not_allowed" if status == 405 else "not_found"
    headers = dict(getattr(error, "headers", None) or {})
    return _Whole(Answer.of_refusal(Refusal(status, f"{said}; see /docs", code, headers=headers)))
