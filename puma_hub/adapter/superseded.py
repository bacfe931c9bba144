"""Marking a published adapter as superseded: its card names the new one, which the Hub shows on its page."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_hub.adapter.card import pair_block
from puma_hub.adapter.config import PumaConfig
from puma_hub.errors import ConfigurationError, MismatchError, shown
from puma_hub.hub.card_parts import CARD_FILE, NEW_VERSION, new_version
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import BLOCK, is_hub_id
from puma_hub.hub.newest import NewestCard, newest_card, on_newest
from puma_hub.tasks.owners import USERS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_START = re.compile(rb"\s*---(\r\n|\r|\n)")
_LINE = re.compile(rb"^" + NEW_VERSION.encode() + rb":[^\r\n]*", re.MULTILINE)


def require_superseded(
    api: HfApi, old: str, new: str, config: PumaConfig, *, private: bool | None = None, named: object = None
) -> str:
    """The full name of the repository ``old``, once it is sure that ``new`` can supersede it. Nothing is written.

    Args:
        new: the repository that ``config``'s adapter will be pushed to; it may not exist yet.
        private: whether it will be private, if it does not exist yet.
        named: the new version that the card to be pushed names.

    Raises:
        ConfigurationError: both are the same repository, the new one names the old one as *its* new version, or the new
            one is private and the old one is not.
        MismatchError: the old one holds no adapter of this pair.
        HubError: the old one is not there, or this token may not write to it.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(f"mark {old} as superseded"):
        api.auth_check(_full(api, old), write=True)
        before = api.model_info(_full(api, old), expand=["private"])
        _require_pair(newest_card(api, before.id), before.id, config)
    with hub_errors(f"push to {new}"):
        name = _full(api, new)
        with suppress(RepositoryNotFoundError):  # it will be made
            present = api.model_info(name, expand=["private"])
            name, private = present.id, present.private
            named = named or new_version(newest_card(api, name).data, name)
    if name.lower() == before.id.lower():
        raise ConfigurationError(
            f"{before.id} cannot supersede itself: name the repository of the old adapter, and push the new one to "
            "another repository"
        )
    if isinstance(named, str) and named.lower() == before.id.lower():
        raise ConfigurationError(
            f"the card of {name} names {before.id} as its {NEW_VERSION}, so each would supersede the other; remove "
            f"that line from its {CARD_FILE}, in the folder and on the Hub, first"
        )
    if private and not before.private:
        raise ConfigurationError(
            f"{name} is private and {before.id} is not: its readers would be sent to what they may not see; make "
            f"{name} public, or push without superseding"
        )
    return str(before.id)


def mark_superseded(api: HfApi, old: str, new: str, config: PumaConfig) -> None:
    """Name ``new`` as the new version in the card of ``old``, in one commit; nothing else in the card changes.

    Where it is named there already, there is no commit.

    Raises:
        MismatchError: the old repository no longer holds an adapter of this pair.
        HubError: the Hub refuses, or cannot be reached.
    """

    def commit() -> None:
        card = newest_card(api, old)
        _require_pair(card, old, config)
        given = new_version(card.data, old)
        if given is not None and given.lower() == new.lower():
            return
        if given is not None:
            logger.warning("the card of %s named %s as its new version, and now names %s", old, given, new)
        api.upload_file(
            path_or_fileobj=_with_new_version(card, new),
            path_in_repo=CARD_FILE,
            repo_id=old,
            commit_message=f"Superseded by {new}",
            parent_commit=card.commit,
        )

    with hub_errors(f"mark {old} as superseded by {new}, which was pushed (the same call again completes it)"):
        on_newest(commit)


def _full(api: HfApi, name: str) -> str:
    """A repository's name with its namespace, which is that of the token's user if none is given."""
    if not is_hub_id(name):
        raise ConfigurationError(f"a repository's name is needed, such as my-lab/adapter, got {shown(name)}")
    return name if "/" in name else f"{api.whoami()['name']}/{name}"


def _require_pair(card: NewestCard, repo_id: str, config: PumaConfig) -> None:
    block = card.data.get(BLOCK)
    if not isinstance(block, Mapping):
        raise MismatchError(
            f"{repo_id} holds no adapter that puma-hub push wrote: the metadata of its card lack the block {BLOCK}; "
            "name the repository of the old adapter"
        )
    ours, theirs = _pair(pair_block(config)), _pair(block)
    if ours != theirs:
        raise MismatchError(
            f"{repo_id} holds an adapter of another pair: {shown(theirs)}, and yours is {shown(ours)} (sources, "
            "target, whose prompts); an adapter supersedes one of its own pair"
        )


def _pair(block: Mapping[str, Any]) -> tuple[list[Any], Any, Any]:
    """Sources, target and owners of a card's block, which may hold anything."""

    def model(spec: object) -> Any:
        return spec.get("model_id") if isinstance(spec, Mapping) else spec

    sources = block.get("sources")
    listed = [model(spec) for spec in sources] if isinstance(sources, list) else [sources]
    return listed, model(block.get("target")), block.get("owners", USERS.name)


def _with_new_version(card: NewestCard, new: str) -> bytes:
    """The card's file with one line added or replaced; only if YAML needs more, all its metadata are written anew."""
    from huggingface_hub import metadata_load, metadata_save

    wanted = {**card.data, NEW_VERSION: new}
    line = f"{NEW_VERSION}: {new}".encode()
    if NEW_VERSION in card.data:
        changed = _LINE.sub(lambda _: line, card.content, count=1)
    else:
        changed = _START.sub(lambda start: start[0] + line + start[1], card.content, count=1)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / CARD_FILE
        path.write_bytes(changed)
        try:
            fits = metadata_load(path) == wanted
        except Exception:  # whatever YAML says of a line that does not fit here
            fits = False
        if not fits:
            path.write_bytes(card.content)
            metadata_save(path, wanted)
        return path.read_bytes()
