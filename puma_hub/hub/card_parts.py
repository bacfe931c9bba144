"""Parts that the cards of adapters and banks share."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from puma_hub.errors import ConfigurationError, shown
from puma_hub.hub.markup import code, literal, visible
from puma_hub.hub.naming import is_hub_id, public_id
from puma_hub.identity import ModelSpec

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
NEW_VERSION = "new_version"
"""The Hub's key in a card's metadata for the repository that supersedes the model."""
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


def new_version(card: Mapping[str, Any], repo_id: str) -> str | None:
    """The repository that a card names as its model's new version; None without one.

    Whatever is not the full name of another repository is ignored, with the reason at level DEBUG.

    Args:
        card: metadata, unchecked.
        repo_id: the repository whose card it is.
    """
    given = card.get(NEW_VERSION)
    if isinstance(given, str) and given.count("/") == 1 and is_hub_id(given) and given.lower() != repo_id.lower():
        return given
    if given is not None:
        logger.debug(
            "new_version of %s is ignored: it must be the full name of another repository, got %s",
            shown(repo_id),
            shown(given),
        )
    return None


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
