"""The fields of requests: which there are, of what kind, and which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from puma_hub.errors import ConfigurationError, shown
from puma_hub.serving.service.backend import Row, Sampling, Text, TextRequest
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.refusal import Refusal

MOST_ANSWERS = 128
_SHOWN = 64  # characters of an unknown field's name
_USUAL_TOKENS = {"chat": 256, "text": 16}  # where a request names no number; of a text as OpenAI's
_Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, Meta(ge=1)]
_Stop = Annotated[str, Meta(min_length=1, max_length=256)]


class _Sampled(Struct, kw_only=True):
    """Fields of both kinds of texts."""

    user: str
    model: str | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=4)] | None = None
    seed: _Seed | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """``include_usage``: a last chunk tells the number of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(Struct, forbid_unknown_fields=True):
    """A part of a message's content; only text can be one."""

    type: Literal["text"]
    text: str


class Message(Struct, forbid_unknown_fields=True):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)]


class ChatBody(_Sampled, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None


class TextBody(_Sampled, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Meta(min_length=1)]


# Fields of OpenAI's that say nothing about the answer, and those of which only some values can be had.
_NO_MATTER = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    }
)
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "verbosity": (),
    "web_search_options": (),
}


def chat_body(value: Any) -> ChatBody:
    """The fields of a chat.

    Raises:
        Refusal: a field is missing, of another kind, or cannot be met.
    """
    return _body(value, ChatBody)


def text_body(value: Any) -> TextBody:
    """The fields of texts to continue. Raises the same errors as :func:`chat_body`."""
    return _body(value, TextBody)


def _body(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object", "invalid_type")
    known = kind.__struct_fields__
    for name in value.keys() - known - _NO_MATTER:
        if name not in _ONLY:
            raise Refusal(
                400, f"Unrecognized request argument supplied: {shown(name)}", "unknown_field", param=name[:_SHOWN]
            )
        if value[name] is not None and not any(_same(value[name], allowed) for allowed in _ONLY[name]):
            raise Refusal(400, f"{name} would change the answer and is not supported", "unsupported", param=name)
    return _converted({name: value[name] for name in known if name in value}, kind)


def _same(value: Any, allowed: Any) -> bool:
    return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        missing = re.search(r"required field `(\w+)`", message)
        path = place.rstrip("`").lstrip(".")
        param = ".".join(part for part in (path, missing[1] if missing else "") if part)
        code = "missing_field" if missing else "invalid_value"
        raise Refusal(400, f"{param}: {message}" if param else message, code, param=param or None) from None


def request_of_chat(body: ChatBody, limits: ServiceLimits) -> TextRequest:
    """The text to continue.

    Raises:
        Refusal: it is longer than the limits, or ``max_tokens`` contradicts ``max_completion_tokens``.
    """
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise Refusal(
            400,
            "max_tokens and max_completion_tokens are the same limit and differ; send one of them",
            "invalid_value",
            param="max_tokens",
        )
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    messages = [{"role": message.role, "content": _content(message)} for message in body.messages]
    _require_short(sum(len(message["content"]) for message in messages), limits, "messages")
    sampling = _sampling(body, body.max_tokens or body.max_completion_tokens, name, "chat", limits)
    return _request(body.user, (messages,), sampling, limits)


def request_of_texts(body: TextBody, limits: ServiceLimits) -> TextRequest:
    """The texts to continue. Raises the same errors as :func:`request_of_chat`."""
    texts: tuple[Text, ...] = (body.prompt,) if isinstance(body.prompt, str) else tuple(body.prompt)
    _require_short(sum(map(len, texts)), limits, "prompt")
    return _request(body.user, texts, _sampling(body, body.max_tokens, "max_tokens", "text", limits), limits)


def _request(user: str, texts: tuple[Text, ...], sampling: Sampling, limits: ServiceLimits) -> TextRequest:
    if len(texts) * sampling.n > limits.max_rows:
        raise Refusal(400, f"a request may have {limits.max_rows} answers at most", "too_many_rows", param="n")
    return TextRequest(user, texts, sampling)


def _content(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def _sampling(body: _Sampled, most: int | None, name: str, kind: str, limits: ServiceLimits) -> Sampling:
    if most is not None and most > limits.max_tokens:
        raise Refusal(400, f"{name} may be {limits.max_tokens} at most, got {most}", "invalid_value", param=name)
    return Sampling(
        max_tokens=most or min(_USUAL_TOKENS[kind], limits.max_tokens),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        seed=body.seed,
        n=body.n or 1,
    )


def _require_short(characters: int, limits: ServiceLimits, param: str) -> None:
    if characters > limits.max_characters:
        raise Refusal(
            400, f"{param} may have {limits.max_characters} characters, got {characters}", "too_long", param=param
        )


class RowFields:
    """The fields of a row to score.

    Args:
        offset: the column that the task adds to its predictions.

    Raises:
        ConfigurationError: the offset has the name of another field.
    """

    def __init__(self, offset: str | None, limits: ServiceLimits) -> None:
        fields: list[Any] = [("user", str), ("item_text", str), ("history", list[str] | None, None)]
        if offset in ("user", "item_text", "history"):
            raise ConfigurationError(
                f"the task's offset cannot be called {offset!r}: requests have a field of that name"
            )
        if offset is not None:
            fields.insert(2, ("offset", float))
        rename = {"offset": offset} if offset is not None else None
        self._kind = msgspec.defstruct("Row", fields, forbid_unknown_fields=True, rename=rename)
        self._offset, self._limits = offset, limits

    def row(self, value: Any) -> Row:
        """A row as back ends take it.

        Raises:
            Refusal: a field is missing, unknown or of another kind, or the texts are longer than the limits.
        """
        found = _converted(value, self._kind)
        row: dict[str, Any] = {"user_id": found.user, "item_text": found.item_text}
        if found.history is not None:
            row["history"] = found.history
        if self._offset is not None:
            row[self._offset] = found.offset
        characters = len(found.item_text) + sum(map(len, found.history or ()))
        _require_short(characters, self._limits, "item_text")
        return row
