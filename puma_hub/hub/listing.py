"""The Hub's entries of models, as the JSON that it sends.

The client's own classes parse all cards of a list at once, and raise for one that is malformed.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

_UNREADABLE = (ValueError, RecursionError)
"""What JSON that cannot be parsed raises: wrong bytes, numbers of thousands of digits, thousands of levels."""


def listed(tags: list[str], author: str | None, token: str | bool | None) -> list[Any]:
    """The entries of all models with these tags, with their cards; None stands for one that cannot be read."""
    try:
        return _pages({"filter": tags, "author": author, "full": True, "cardData": True}, token)
    except _UNREADABLE as error:
        logger.debug("a page of cards cannot be parsed (%s); reading them one by one", type(error).__name__)
    found: list[Any] = []
    for entry in _pages({"filter": tags, "author": author}, token):
        try:
            found.append(described(entry["id"], token))
        except _UNREADABLE:
            found.append(None)
    return found


def described(repo_id: str, token: str | bool | None = None) -> Any:
    """The entry of one model, with its card."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    response = get_session().get(f"{constants.ENDPOINT}/api/models/{repo_id}", headers=build_hf_headers(token=token))
    hf_raise_for_status(response)
    return response.json()


def _pages(query: dict[str, Any], token: str | bool | None) -> list[Any]:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, paginate

    known = {key: value for key, value in query.items() if value is not None}
    return list(paginate(f"{constants.ENDPOINT}/api/models", known, build_hf_headers(token=token)))
