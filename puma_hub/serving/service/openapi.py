"""The description of the endpoints' bodies for ``/docs``, from the same fields that requests are checked with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI

from puma_hub.serving.service.fields import ChatBody, TextBody


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A user and an item. If the task adds a column to its predictions, the row has that field too."""

    user: str
    item_text: str
    history: list[str] | None = None


_KINDS: dict[str, Any] = {
    "/v1/score": Row | list[Row],
    "/v1/chat/completions": ChatBody,
    "/v1/completions": TextBody,
}
_REFERENCE = "#/components/schemas/{name}"


def takes(path: str) -> dict[str, Any]:
    """What FastAPI's ``openapi_extra`` says of the body at ``path``."""
    (schema,), _ = msgspec.json.schema_components([_KINDS[path]], ref_template=_REFERENCE)
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}, "security": [{"key": []}]}


def described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """``app.openapi`` with the bodies' fields added."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        found = plain()
        components = found.setdefault("components", {})
        _, schemas = msgspec.json.schema_components(list(_KINDS.values()), ref_template=_REFERENCE)
        components["schemas"] = {**components.get("schemas", {}), **schemas}
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return found

    return openapi
