"""Commits that start from a repository's newest revision, and the card that is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from puma_hub.hub.card_parts import CARD_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TRIES = 4
_PAUSE = 0.4
_CHANGED_MEANWHILE = (409, 412)


def on_newest(commit: Callable[[], T]) -> T:
    """Call ``commit``, which starts from the newest revision, and repeat it if somebody else committed in between."""
    from huggingface_hub.errors import HfHubHTTPError

    for tried in range(1, _TRIES):
        try:
            return commit()
        except HfHubHTTPError as error:
            if error.response.status_code not in _CHANGED_MEANWHILE:
                raise
            logger.info("the repository was changed at the same time; starting again from its newest revision")
            time.sleep(_PAUSE * tried)
    return commit()


@dataclass(frozen=True)
class NewestCard:
    """A model's card at the newest commit of a branch; ``content`` is the file, ``data`` its metadata.

    Without a card, or where the metadata cannot be read, both are as of an empty file.
    """

    commit: str | None
    content: bytes
    data: dict[str, Any]


def newest_card(api: HfApi, repo_id: str, revision: str | None = None) -> NewestCard:
    """The card of the newest commit, never an older one from the client's cache."""
    from huggingface_hub import metadata_load
    from huggingface_hub.errors import EntryNotFoundError

    commit = api.model_info(repo_id, revision=revision, expand=["sha"]).sha
    try:
        path = api.hf_hub_download(repo_id, CARD_FILE, revision=commit)
    except EntryNotFoundError:
        return NewestCard(commit, b"", {})
    try:
        data = metadata_load(path)
    except Exception as error:  # YAML's own errors, wrong bytes, thousands of levels
        logger.debug("the metadata of %s at %s cannot be read (%s)", repo_id, commit, type(error).__name__)
        data = None
    return NewestCard(commit, Path(path).read_bytes(), data or {})
