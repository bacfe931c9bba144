"""Publishing an adapter: weights, config, card and facts in one commit."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_hub.adapter.card import adapter_card, card_data
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.adapter.superseded import mark_superseded, require_superseded
from puma_hub.errors import ConfigurationError, StorageError, shown
from puma_hub.hub.card_parts import CARD_FILE, NEW_VERSION, new_version
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_folder, pair_repo_id
from puma_hub.hub.newest import newest_card, on_newest
from puma_hub.storage import scratch_folder
from puma_hub.tasks.owners import USERS

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard

    from puma_hub.adapter import PumaAdapter, PumaConfig

logger = logging.getLogger(__name__)

# Weights of an earlier revision that the new ones would not replace must not stay beside them.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]


def publish_adapter(
    adapter: PumaAdapter,
    repo_id: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    card: ModelCard | str | None = None,
    supersedes: str | None = None,
) -> CommitInfo:
    """What :meth:`puma_hub.PumaAdapter.push_to_hub` does."""
    from huggingface_hub import HfApi

    config: Any = adapter.config
    given = _given_card(adapter, card)
    if repo_id is None and config.owners != USERS.name:
        raise ConfigurationError(
            f"this adapter migrates prompts of {config.owners}, and the pair's own repository is for that of users; "
            "give repo_id="
        )
    name = repo_id or pair_repo_id(config.sources, config.require_pair())
    _warn_of_folders(config)
    api = HfApi(token=token)
    old = None
    if supersedes is not None:
        if create_pr or revision not in (None, "main"):
            raise ConfigurationError(
                f"{supersedes} can be superseded only by what is on the branch main, not by a pull request or another "
                f"branch (revision={revision!r}); push to main, or without supersedes"
            )
        named = None if given is None else given.data.get(NEW_VERSION)
        old = require_superseded(api, supersedes, name, config, private=private, named=named)
    with scratch_folder() as place:
        adapter.save_pretrained(place)
        with hub_errors(f"push to {name}"):
            full = api.create_repo(name, private=private, exist_ok=True).repo_id
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(full, branch=revision, exist_ok=True)

            def commit() -> CommitInfo:
                before = newest_card(api, full, revision)
                _write_card(adapter, place, full, given, new_version(before.data, full))
                made: CommitInfo = api.upload_folder(
                    repo_id=full,
                    folder_path=place,
                    revision=revision,
                    commit_message=commit_message or f"Adapter {full.partition('/')[2]}",
                    create_pr=create_pr,
                    delete_patterns=_REPLACED,
                    parent_commit=before.commit,
                )
                return made

            pushed = on_newest(commit)
    if old is not None:
        mark_superseded(api, old, full, config)
    return pushed


def _warn_of_folders(config: PumaConfig) -> None:
    folders = [spec.model_id for spec in (*config.sources, config.require_pair()) if is_folder(spec.model_id)]
    if folders:
        logger.warning(
            "%d of the adapter's models are named by a folder, which goes into its public config and which nobody else "
            "can search for; give the models' Hub ids (puma-hub card DIR --source ID --target ID)",
            len(folders),
        )


def local_facts(adapter: PumaAdapter) -> AdapterFacts | None:
    """The facts kept in the folder an adapter was loaded from."""
    folder = adapter.name_or_path
    return AdapterFacts.read(folder) if folder and Path(folder).is_dir() else None


def write_card(adapter: PumaAdapter, folder: str | Path, facts: AdapterFacts | None) -> None:
    """Write the card, and the facts it is made from, into an adapter's own folder."""
    from puma_hub.storage import new_file

    if facts is not None:
        facts.write(folder)
    with new_file(Path(folder) / CARD_FILE) as path:
        path.write_text(str(adapter_card(adapter, _local_name(adapter), facts)), encoding="utf-8")


def _local_name(adapter: PumaAdapter) -> str:
    return pair_repo_id(adapter.config.sources, adapter.config.require_pair())


def _given_card(adapter: PumaAdapter, card: ModelCard | str | None) -> ModelCard | None:
    """The given card, else the folder's edited one; None where the card is to be made from the facts."""
    from huggingface_hub import ModelCard

    text = edited_card(adapter) if card is None else str(card)
    if text is None:
        return None
    try:
        return ModelCard(text, ignore_metadata_errors=False)
    except Exception as error:  # YAML's own errors, and what the client makes of a field of another kind
        reason = shown(" ".join(str(error).split()))
        raise ConfigurationError(f"the card's metadata cannot be read: {reason}; correct its YAML") from error


def _write_card(adapter: PumaAdapter, place: Path, repo_id: str, given: ModelCard | None, kept: str | None) -> None:
    """Write a repository's card: the given one, else one made from the facts.

    Args:
        kept: the new version that the repository's present card names. It stays, unless the given card names another.
    """
    facts = local_facts(adapter)
    config: Any = adapter.config
    if facts is not None:
        facts.write(place)
    made = adapter_card(adapter, repo_id, facts) if given is None else deepcopy(given)
    if given is not None:
        # Added whatever its text says: without these nobody finds the pair.
        for key, value in card_data(config, AdapterFacts()).to_dict().items():
            made.data[key] = _tags(made.data.get(key), value) if key == "tags" else value
    named = made.data.get(NEW_VERSION)
    if isinstance(named, str) and named.lower() == repo_id.lower():  # a card from the repository that this supersedes
        named = made.data.pop(NEW_VERSION) and None
    if kept is not None and named is None:
        made.data[NEW_VERSION] = kept
    (place / CARD_FILE).write_text(str(made), encoding="utf-8")


def _tags(given: object, ours: list[str]) -> list[str]:
    """Our tags first, as on a card that we make, then those of the given card."""
    theirs = given if isinstance(given, list) else [given] if isinstance(given, str) else []
    return list(dict.fromkeys([*ours, *(tag for tag in theirs if isinstance(tag, str))]))


def edited_card(adapter: PumaAdapter) -> str | None:
    """The card in the folder an adapter was loaded from, if it was changed by hand.

    Raises:
        ConfigurationError: it is empty.
        StorageError: it cannot be read, or is not UTF-8.
    """
    path = Path(adapter.name_or_path or ".") / CARD_FILE
    if not adapter.name_or_path or not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the card {path}: {shown(str(error))}; save it as UTF-8") from error
    if text == str(adapter_card(adapter, _local_name(adapter), local_facts(adapter))):
        return None
    if not text.strip():
        raise ConfigurationError(f"the card {path} is empty; write it, or make it with puma-hub card")
    return text
