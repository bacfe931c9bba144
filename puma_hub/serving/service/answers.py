"""Answers to text requests, in the shapes of OpenAI's API."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from puma_hub.serving.service.backend import Finish, TextStream


@dataclass(frozen=True)
class Shape:
    """The words of one kind of answer."""

    prefix: str
    whole: str
    chunk: str
    is_chat: bool


CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", True)
TEXT = Shape("cmpl", "text_completion", "text_completion", False)
DONE = b"data: [DONE]\n\n"


class TextAnswer:
    """One answer, whole or in chunks.

    Args:
        shape: of the answer.
        model: its name in requests.
        answers: how many there are.
    """

    def __init__(self, shape: Shape, model: str, answers: int) -> None:
        self._shape, self._answers = shape, answers
        self._head: dict[str, Any] = {
            "id": f"{shape.prefix}-{secrets.token_hex(12)}",
            "object": shape.whole,
            "created": int(time.time()),
            "model": model,
        }
        self.new_tokens = 0

    async def whole(self, stream: TextStream) -> dict[str, Any]:
        """The answer when all of it is written."""
        texts = [""] * self._answers
        reasons: list[Finish | None] = [None] * self._answers
        async for piece in stream.pieces:
            texts[piece.index] += piece.text
            if piece.finish is not None:
                reasons[piece.index] = piece.finish
                self.new_tokens += piece.tokens
        choices = [self._choice(*one) for one in zip(range(self._answers), texts, reasons)]
        return {**self._head, **_facts(stream), "choices": choices, "usage": self._usage(stream)}

    async def chunks(self, stream: TextStream, with_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk for each piece, then the usage if it is asked for, then ``[DONE]``."""
        head = {**self._head, "object": self._shape.chunk, **_facts(stream)}
        none = {"usage": None} if with_usage else {}
        if self._shape.is_chat:
            for index in range(self._answers):
                yield _event({**head, "choices": [self._delta(index, "", None, role="assistant")], **none})
        async for piece in stream.pieces:
            if piece.text:
                yield _event({**head, "choices": [self._delta(piece.index, piece.text, None)], **none})
            if piece.finish is not None:
                self.new_tokens += piece.tokens
                yield _event({**head, "choices": [self._delta(piece.index, "", piece.finish)], **none})
        if with_usage:
            yield _event({**head, "choices": [], "usage": self._usage(stream)})
        yield DONE

    def _choice(self, index: int, text: str, finish: Finish | None) -> dict[str, Any]:
        rest = {"logprobs": None, "finish_reason": finish}
        if self._shape.is_chat:
            return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None}, **rest}
        return {"index": index, "text": text, **rest}

    def _delta(self, index: int, text: str, finish: Finish | None, **more: str) -> dict[str, Any]:
        rest = {"logprobs": None, "finish_reason": finish}
        if self._shape.is_chat:
            return {"index": index, "delta": {} if finish else {**more, "content": text}, **rest}
        return {"index": index, "text": text, **rest}

    def _usage(self, stream: TextStream) -> dict[str, int]:
        return {
            "prompt_tokens": stream.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": stream.prompt_tokens + self.new_tokens,
        }


def _facts(stream: TextStream) -> dict[str, Any]:
    """The LLM's weights; where there are several versions, which one; where it is allowed, a mean prompt."""
    known = {"version": stream.version, "cold_start": stream.cold_start}
    return {"system_fingerprint": stream.fingerprint} | {k: value for k, value in known.items() if value is not None}


def event_of_error(error: dict[str, Any]) -> bytes:
    """An error after the answer has begun."""
    return _event({"error": error})


def _event(content: Any) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
