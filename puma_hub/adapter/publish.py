"""Publishing an adapter: weights, config, card and facts in one commit."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_hub.adapter.card import adapter_card, card_data
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.errors import ConfigurationError, StorageError, shown
from puma_hub.hub.card_parts import CARD_FILE
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_folder, pair_repo_id
from puma_hub.tasks.owners import USERS

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard

    from puma_hub.adapter import PumaAdapter

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
) -> CommitInfo:
    """What :meth:`puma_hub.PumaAdapter.push_to_hub` does."""
    from huggingface_hub import HfApi

    config = adapter.config
    if repo_id is None and config.owners != USERS.name:
        raise ConfigurationError(
            f"this adapter migrates prompts of {config.owners}, and the pair's own repository is for that of users; "
            "give repo_id="
        )
    name = repo_id or pair_repo_id(config.sources, config.require_pair())
    folders = [spec.model_id for spec in (*config.sources, config.require_pair()) if is_folder(spec.model_id)]
    if folders:
        logger.warning(
            "%d of the adapter's models are named by a folder, which goes into its public config and which nobody else "
            "can search for; give the models' Hub ids (puma-hub card DIR --source ID --target ID)",
            len(folders),
        )
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        adapter.save_pretrained(place)
        with hub_errors(f"push to {name}"):
            full = api.create_repo(name, private=private, exist_ok=True).repo_id
            _write_card(adapter, place, full, card)
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(full, branch=revision, exist_ok=True)
            commit: CommitInfo = api.upload_folder(
                repo_id=full,
                folder_path=place,
                revision=revision,
                commit_message=commit_message or f"Adapter {full.partition('/')[2]}",
                create_pr=create_pr,
                delete_patterns=_REPLACED,
            )
    return commit


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


def _write_card(adapter: PumaAdapter, place: str, repo_id: str, given: ModelCard | str | None) -> None:
    """Write a repository's card: the given one, else the folder's edited one, else one made from the facts."""
    from huggingface_hub import ModelCard

    facts = local_facts(adapter)
    config: Any = adapter.config
    if facts is not None:
        facts.write(place)
    if given is None:
        given = edited_card(adapter)
    if given is None:
        made = adapter_card(adapter, repo_id, facts)
    else:
        try:
            made = ModelCard(str(given), ignore_metadata_errors=False)
        except Exception as error:  # YAML's own errors, and what the client makes of a field of another kind
            reason = shown(" ".join(str(error).split()))
            raise ConfigurationError(f"the card's metadata cannot be read: {reason}; correct its YAML") from error
        # Added whatever its text says: without these nobody finds the pair.
        for key, value in card_data(config, AdapterFacts()).to_dict().items():
            made.data[key] = _tags(made.data.get(key), value) if key == "tags" else value
    (Path(place) / CARD_FILE).write_text(str(made), encoding="utf-8")


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
