"""The Hub's entries of models, as JSON.

The client's own classes parse all cards of a list at once, and one malformed card fails the whole list.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

# Raised for JSON that cannot be parsed: wrong bytes, numbers of thousands of digits, thousands of levels.
_UNREADABLE = (ValueError, RecursionError)


def listed(tags: list[str], author: str | None, token: str | bool | None) -> list[Any]:
    """The entries of all models with these tags, with their cards; None stands for one that cannot be read."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return _pages({"filter": tags, "author": author, "full": True, "cardData": True}, token)
    except _UNREADABLE as error:
        logger.debug("a page of cards cannot be parsed (%s); reading them one by one", type(error).__name__)
    found: list[Any] = []
    for entry in _pages({"filter": tags, "author": author}, token):
        name = entry.get("id") if isinstance(entry, dict) else None
        try:
            found.append(described(str(name), token))
        except (*_UNREADABLE, RepositoryNotFoundError):
            found.append(None)
    return found


def described(repo_id: str, token: str | bool | None = None) -> Any:
    """The entry of one model, with its card."""
    return _asked(f"models/{repo_id}", None, token)[0]


def _pages(query: dict[str, Any], token: str | bool | None) -> list[Any]:
    address: str | None = "models"
    known = {key: value for key, value in query.items() if value is not None}
    found: list[Any] = []
    while address is not None:
        page, address = _asked(address, known, token)
        found += page if isinstance(page, list) else []
        known = {}  # the address of the next page has the query in it
    return found


def _asked(address: str, query: dict[str, Any] | None, token: str | bool | None) -> tuple[Any, str | None]:
    """The JSON at an address of the API, with the client's retries, and the next page's address."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    start = f"{constants.ENDPOINT}/api/"
    response = http_backoff("GET", start + address, params=query or None, headers=build_hf_headers(token=token))
    hf_raise_for_status(response)
    after = response.links.get("next", {}).get("url", "")
    # The token goes to this Hub only, whatever host the link names.
    return response.json(), after.partition("/api/")[2] or None
