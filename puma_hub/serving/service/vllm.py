"""The back end ``vllm``: the LLM runs in a vLLM server behind this service, which sends it input embeddings."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import torch

from puma_hub.errors import PumaHubError, ServingError
from puma_hub.pipelines.prompt_sources import UserPrompts
from puma_hub.scorer.encoding import text_length
from puma_hub.serving.requests import PromptRequests
from puma_hub.serving.service.backend import (
    Backend,
    BackendSetting,
    Finish,
    Piece,
    Row,
    Scored,
    Text,
    TextRequest,
    TextStream,
)
from puma_hub.serving.service.refusal import Refusal, overloaded, stopping
from puma_hub.serving.service.served_prompts import served

KEY_VARIABLE = "VLLM_API_KEY"
_PATH = "/v1/completions"
_CONNECT_SECONDS = 10.0
_TICK = 0.05


class _Requests(PromptRequests):
    """Requests in which users without a prompt may have the mean prompt."""

    unknown_users = "error"

    def found(self, user_id: str) -> tuple[torch.Tensor, bool]:
        """The prompt ``(l, d)``, and whether it is the mean prompt. Raises :class:`UnknownUserError`."""
        return self._users.find({"user_id": user_id}, self.unknown_users)

    def prompt(self, user_id: str) -> torch.Tensor:
        return self.found(user_id)[0]

    @property
    def _users(self) -> UserPrompts:
        if "_source" not in vars(self):
            self._source = UserPrompts(self.bank.shape[1], self.bank)  # type: ignore[arg-type]
        return self._source


class VllmBackend(Backend):
    """Asks a vLLM server that was started with ``--enable-prompt-embeds``. vLLM itself batches what it is sent.

    The server has to be out of clients' reach: it takes tensors from anyone who reaches it. If it needs a key, that is
    in the environment variable ``VLLM_API_KEY``.

    Args:
        setting: what it is made from. Its ``dtype`` has to be the server's.
        url: the server's address, such as ``http://127.0.0.1:8001``.

    Raises:
        ServingError: there is no such server.
        MismatchError: LLM, template or task are not those of the prompts.
        StorageError, UnsupportedModelError, ...: the model's embeddings cannot be loaded.
    """

    def __init__(self, setting: BackendSetting, *, url: str) -> None:
        self._limits = setting.limits
        self._meters = setting.meters
        self._requests = _Requests(
            served(setting.prompts),
            setting.model,
            setting.template,
            task=setting.task,
            dtype=setting.dtype,
            truncate_items=setting.truncate_items,
        )
        self._requests.unknown_users = setting.unknown_users
        self._says_cold = setting.unknown_users == "mean"
        self.offset_column = self._requests.reader.task.offset_column
        self._fingerprint = self._requests.reader.spec.fingerprint
        key = os.environ.get(KEY_VARIABLE)
        options: dict[str, Any] = {
            "base_url": url,
            "headers": {"authorization": f"Bearer {key}"} if key else {},
            "timeout": httpx2.Timeout(self._limits.timeout, connect=_CONNECT_SECONDS),
        }
        self._model = _served_model(options)
        most = httpx2.Limits(max_connections=self._limits.max_batch_size, max_keepalive_connections=None)
        self._client = httpx2.AsyncClient(**options, limits=most)
        self._open = 0
        self._stopping = False

    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        async with self._taking(len(rows)):
            self._meters.batch("vllm", len(rows))
            found = await asyncio.gather(*map(self._scored, rows), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
        return found  # type: ignore[return-value]

    async def _scored(self, row: Row) -> Scored:
        loop = asyncio.get_running_loop()
        # In other threads: embeddings are looked up and encoded there while the event loop goes on.
        body = await loop.run_in_executor(None, self._requests.vllm_http, row["user_id"], row)
        try:
            answer = await self._client.post(_PATH, json={**body, "model": self._model})
        except httpx2.HTTPError as error:
            raise self._lost(error) from error
        _require_success(answer)
        scores = self._requests.scores(_json(answer.content), row)
        return scores | self._cold(row["user_id"])

    async def stream(self, request: TextRequest) -> TextStream:
        loop = asyncio.get_running_loop()
        prepared = [await loop.run_in_executor(None, self._prepared, request, text) for text in request.texts]
        if self._stopping:
            raise stopping()
        cold = self._cold(request.user_id).get("cold_start")
        pieces = self._pieces(request, [body for _, body in prepared])
        return TextStream(sum(width for width, _ in prepared), cold, pieces, self._fingerprint)

    def _prepared(self, request: TextRequest, text: Text) -> tuple[int, dict[str, Any]]:
        """The number of positions of a text with its prompt, and the body of the request for it."""
        width = text_length(self._requests.segments_of_text(text)) + self._requests.bank.shape[0]
        longest, sampling = self._requests.reader.encoder.max_length, request.sampling
        if width >= longest:
            raise Refusal(
                400,
                f"the text needs {width + 1} positions with its prompt and a new token, the model has {longest}",
                "unusable_text",
            )
        body = self._requests.vllm_http_text(
            request.user_id,
            text,
            max_tokens=min(sampling.max_tokens, longest - width),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=-1,
            stop=list(sampling.stop),
            seed=sampling.seed,
            n=sampling.n,
            stream=True,
            stream_options={"include_usage": True},
        )
        return width, {**body, "model": self._model}

    async def _pieces(self, request: TextRequest, bodies: Sequence[dict[str, Any]]) -> AsyncIterator[Piece]:
        found: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

        async def continued(number: int, body: dict[str, Any]) -> None:
            try:
                async for piece in self._continued(number * request.sampling.n, body):
                    found.put_nowait(piece)
                found.put_nowait(None)
            except Exception as error:
                found.put_nowait(error)

        async with self._taking(len(bodies)):
            self._meters.batch("vllm", len(bodies))
            tasks = [asyncio.ensure_future(continued(number, body)) for number, body in enumerate(bodies)]
            left = len(tasks)
            try:
                while left:
                    piece = await found.get()
                    if isinstance(piece, Exception):
                        raise piece
                    if piece is None:
                        left -= 1
                    else:
                        yield piece
            finally:
                for task in tasks:
                    task.cancel()

    async def _continued(self, first: int, body: dict[str, Any]) -> AsyncIterator[Piece]:
        """The pieces of a text's answers, whose numbers begin with ``first``.

        The server tells the number of tokens after the last piece, of all answers together.
        """
        reasons: dict[int, Finish] = {}
        tokens = 0
        try:
            async with self._client.stream("POST", _PATH, json=body) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    _require_success(answer)
                async for line in answer.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = _json(line[6:])
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                    for choice in event.get("choices", ()):
                        if choice.get("text"):
                            yield Piece(first + choice["index"], choice["text"])
                        if choice.get("finish_reason") is not None:
                            reasons[choice["index"]] = _finish(choice["finish_reason"])
        except httpx2.HTTPError as error:
            raise self._lost(error) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ServingError(f"vLLM's answer has another form than expected ({type(error).__name__})") from error
        if len(reasons) != body["n"]:
            raise ServingError(f"vLLM ended {len(reasons)} of {body['n']} answers")
        for number, (index, reason) in enumerate(sorted(reasons.items())):
            yield Piece(first + index, "", reason, tokens if number == 0 else 0)

    def _lost(self, error: Exception) -> PumaHubError:
        """The server did not answer, or this service has ended the request."""
        return stopping() if self._stopping else ServingError(f"no answer of vLLM: {type(error).__name__}")

    def _cold(self, user_id: str) -> dict[str, bool]:
        return {"cold_start": self._requests.found(user_id)[1]} if self._says_cold else {}

    @asynccontextmanager
    async def _taking(self, number: int) -> AsyncIterator[None]:
        """Inside, so many rows or texts are with the server.

        Raises:
            Refusal: too many are there already.
        """
        if self._stopping:
            raise stopping()
        if self._open + number > self._limits.queue:
            raise overloaded(f"{self._open} of at most {self._limits.queue} are waiting; ask again later", 1)
        self._open += number
        try:
            yield
        finally:
            self._open -= number

    def waiting(self) -> dict[str, int]:
        return {"vllm": self._open}

    async def close(self, seconds: float = 0.0) -> None:
        self._stopping = True
        last = time.monotonic() + seconds
        while self._open and time.monotonic() < last:
            await asyncio.sleep(_TICK)
        await self._client.aclose()  # ends what is left


def _served_model(options: Mapping[str, Any]) -> str:
    """The name by which the server knows its model.

    Raises:
        ServingError: the server cannot be reached, or has none.
    """
    try:
        with httpx2.Client(**options) as client:
            answer = client.get("/v1/models")
        _require_success(answer)
        return str(_json(answer.content)["data"][0]["id"])
    except (httpx2.HTTPError, httpx2.InvalidURL, KeyError, IndexError, TypeError, PumaHubError) as error:
        raise ServingError(
            f"there is no vLLM server at {options['base_url']} ({type(error).__name__}: {error}); start one with vllm "
            "serve MODEL --enable-prompt-embeds"
        ) from error


def _require_success(answer: Any) -> None:
    """Check the status of an answer that has been read."""
    status = answer.status_code
    if status == 200:
        return
    if status in (429, 503):
        raise overloaded("the engine behind this service is busy; ask again later", 1)
    said = _said(answer)
    if status == 400 and "embeds" not in said:  # a text too long, or too many answers
        raise Refusal(400, f"the engine refused the request: {said}", "unusable_text")
    raise ServingError(f"vLLM answered with status {status}: {said}")


def _said(answer: Any) -> str:
    """The message of an answer with an error, or its beginning."""
    with suppress(ServingError, KeyError, TypeError):
        return str(_json(answer.content)["error"]["message"])[:300]
    return str(answer.text)[:300]


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ServingError("vLLM's answer is no JSON") from error


def _finish(reason: object) -> Finish:
    if reason == "stop" or reason == "length":
        return reason
    raise ServingError(f"vLLM ended an answer with {reason!r}")
