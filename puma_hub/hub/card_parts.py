"""Parts that the cards of adapters and banks share."""

from __future__ import annotations

import re
from typing import Any

from puma_hub.errors import ConfigurationError, shown
from puma_hub.hub.markup import code, literal, visible
from puma_hub.hub.naming import public_id
from puma_hub.identity import ModelSpec

CARD_FILE = "README.md"
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,99}")


def require_license(license: object) -> None:
    """Refuse what cannot be a license's identifier on the Hub; None, for not stated, passes.

    Raises:
        ConfigurationError: it cannot.
    """
    if license is not None and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        raise ConfigurationError(
            f"license must be an identifier of the Hub, such as apache-2.0, gemma or other, got {shown(license)}"
        )


def spec_data(spec: ModelSpec) -> dict[str, Any]:
    """An LLM in a card's metadata."""
    known = {key: visible(value) if isinstance(value, str) else value for key, value in spec.to_dict().items()}
    return {key: value for key, value in known.items() if value is not None} | {"model_id": public_id(spec.model_id)}


def spec_row(spec: ModelSpec) -> dict[str, Any]:
    """An LLM in a card's text."""
    return {
        "name": code(public_id(spec.model_id)),
        "literal": literal(public_id(spec.model_id)),
        "size": spec.hidden_size,
        "revision": code(spec.revision) if spec.revision else "not recorded",
        "fingerprint": code(spec.fingerprint) if spec.fingerprint else "not recorded",
    }
