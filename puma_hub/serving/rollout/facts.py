"""What is known of a version without loading it: whether its parts fit together and fit the other version."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from puma_hub.bank import PromptBank
from puma_hub.bank.bucket import describe_bucket
from puma_hub.bank.download import describe_bank
from puma_hub.bank.folder import describe_folder
from puma_hub.bank.keyed_files import DESCRIPTION_FILE, StoreDescription
from puma_hub.bank.provenance import Provenance
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.hub.buckets import is_bucket, require_no_revision
from puma_hub.hub.failures import hub_errors
from puma_hub.serving.prompts import Prompts, open_prompts
from puma_hub.serving.rollout.version import Version
from puma_hub.storage.staging import bring_back


@dataclass(frozen=True)
class Facts:
    """``users``: the number of prompts. ``commit``: of a bank on the Hub."""

    provenance: Provenance
    users: int
    commit: str | None = None


def facts_of(version: Version) -> Facts:
    """What a version's prompts say of themselves; no prompt is read.

    Args:
        version: with folders as they are found from the current one.

    Raises:
        ConfigurationError: a revision is given for a folder.
        StorageError, CheckpointError, BankError, HubError: the prompts are not there, or damaged.
    """
    folder = Path(version.bank)
    bring_back(folder)
    if folder.is_dir():
        if version.bank_revision is not None:
            raise ConfigurationError(f"{version.bank} is a folder, which has no revisions; leave --bank-revision out")
        if (folder / DESCRIPTION_FILE).is_file():
            store = StoreDescription.read(folder)
            return Facts(store.provenance, store.users)
        bank = describe_folder(folder)
        return Facts(bank.provenance, bank.users)
    if is_bucket(version.bank):
        require_no_revision(version.bank_revision, version.bank)
        found = describe_bucket(version.bank)
        return Facts(found.provenance, found.users)
    described, cached = describe_bank(version.bank, version.bank_revision)
    return Facts(described.provenance, described.users, cached.name)


def pinned(version: Version, facts: Facts) -> Version:
    """The version with the commits that its names stand for now.

    Raises:
        MismatchError: its adapter maps to another LLM than its prompts'.
        ConfigurationError, StorageError, HubError: there is no such adapter.
    """
    commit = None
    if version.adapter is not None:
        commit = _require_adapter(version, facts.provenance)
    elif version.adapter_revision is not None:
        raise ConfigurationError("--adapter-revision is about an adapter; give --adapter")
    return replace(version, bank_revision=facts.commit, adapter_revision=commit)


def require_together(new: Provenance, old: Provenance, what: str) -> None:
    """Refuse two versions that cannot answer the same requests.

    Raises:
        MismatchError: their tasks differ, so that scores or fields of rows do, or one has prompts of items.
    """
    if new.task is not None and old.task is not None and new.task != old.task:
        raise MismatchError(
            f"{what}: its prompts were trained for {new.task}, the stable version's for {old.task}; scores of both "
            "could not be compared, and rows have other fields: serve them apart"
        )
    if new.owners != old.owners:
        raise MismatchError(f"{what}: it has prompts of {new.owners}, and the stable version of {old.owners}")


def local_prompts(version: Version) -> Prompts | None:
    """The prompts of a bank or keyed store in a folder; None where they would have to be downloaded."""
    return open_prompts(version.bank) if Path(version.bank).is_dir() else None


def user_ids(version: Version) -> list[str] | None:
    """The users of a bank in a folder; None where they cannot be listed, or would have to be downloaded."""
    prompts = local_prompts(version)
    return prompts.user_ids if isinstance(prompts, PromptBank) else None


def _require_adapter(version: Version, made: Provenance) -> str | None:
    """Check that the adapter's target is the LLM of the prompts; its commit on the Hub."""
    from puma_hub.adapter import PumaConfig

    name, commit = version.adapter, version.adapter_revision
    assert name is not None
    if os.path.isdir(name):
        if commit is not None:
            raise ConfigurationError(f"{name} is a folder, which has no revisions; leave --adapter-revision out")
    else:
        from huggingface_hub import HfApi

        with hub_errors(f"look up the adapter {name}, which is not a local folder"):
            commit = HfApi().model_info(name, revision=commit).sha
    config = PumaConfig.from_pretrained(name, **({} if commit is None else {"revision": commit}))
    config.require_pair().require_same(made.model, f"version {version.name}, its prompts and its adapter's target")
    return commit
