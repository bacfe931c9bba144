"""Reading a request's body: within its limits, and as JSON that means one thing."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import msgspec
from starlette.types import Receive, Scope

from puma_hub.serving.service.refusal import Refusal
from puma_hub.serving.service.waiting import Disconnected, Within

_SURROGATE = b"\\ud"  # in lower case, how JSON spells halves of surrogate pairs


async def read_body(scope: Scope, receive: Receive, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        Refusal: it has more than ``most`` bytes, by its header or when they come; it takes longer than ``seconds``; or
            it is no JSON by its headers.
        Disconnected: the client goes away meanwhile.
    """
    headers = dict(scope["headers"])
    # Browsers send JSON to another site only if that site allows it, and other types without asking.
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "send JSON, with the header Content-Type: application/json", "unsupported_media_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "send the body without a Content-Encoding", "unsupported_media_type")
    stated = headers.get(b"content-length", b"0")
    if not stated.isdigit() or int(stated[:20]) > most:
        raise _too_large(most)
    late = Refusal(408, f"the body did not come within {seconds:g} seconds", "timeout")
    parts: list[bytes] = []
    size, more = 0, True
    with Within(seconds, late):
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > most:
                raise _too_large(most)
    return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body has more than {most} bytes; send less at once", "body_too_large")


def parsed(body: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        Refusal: it is no UTF-8 or no JSON, an object has a key twice, a number is NaN or too large, something is nested
            too deeply, or a text holds half of a surrogate pair.
    """
    try:
        value = _JSON.decode(body.decode("utf-8"))
        if _SURROGATE in body.lower():
            msgspec.json.encode(value)
        return value
    except UnicodeDecodeError:
        raise _invalid("is not UTF-8") from None
    except UnicodeEncodeError:
        raise _invalid("holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None
    except RecursionError:
        raise _invalid("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:  # a whole number of too many digits
        raise _invalid(f"has a number that is too large ({type(error).__name__})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _invalid("has a key twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise _invalid(f"holds {name}, which is no JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _invalid("has a number that is too large")
    return value


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _invalid(what: str) -> Refusal:
    return Refusal(400, f"the body {what}", "invalid_json")
