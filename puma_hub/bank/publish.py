"""Publishing a bank in one commit: description, shards, head and card. It is private unless the user says otherwise."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from puma_hub.bank import PromptBank
from puma_hub.bank.card import bank_card
from puma_hub.bank.description import HEAD_FILE, BankDescription
from puma_hub.bank.folder import write_contents
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE, shard_rows
from puma_hub.errors import ConfigurationError
from puma_hub.hub.buckets import is_bucket
from puma_hub.hub.card_parts import CARD_FILE, require_license
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_folder
from puma_hub.hub.newest import on_newest
from puma_hub.storage import scratch_folder

if TYPE_CHECKING:
    from huggingface_hub import BucketInfo, CommitInfo, HfApi
    from huggingface_hub.hf_api import DatasetInfo

logger = logging.getLogger(__name__)

_REPLACED = ("*.parquet", HEAD_FILE)
"""A commit deletes these files if it does not write them: nothing of an older bank may stay beside the new one."""


def publish_bank(
    bank: PromptBank,
    repo_id: str,
    *,
    private: bool = True,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
) -> CommitInfo:
    """Implements :meth:`puma_hub.PromptBank.push_to_hub`."""
    from huggingface_hub import HfApi

    if is_bucket(repo_id):
        raise ConfigurationError(
            f"{repo_id} is in a bucket, which keeps no commits; publish there with bank.push_to_bucket (puma-hub push "
            "--bucket)"
        )
    private = private is not False  # only an explicit False makes a bank public
    require_license(license)
    rows = shard_rows(bank.stored, max_shard_size)
    warn_of_folder(bank, repo_id)
    api = HfApi(token=token)
    with scratch_folder() as folder, hub_errors(f"push to {repo_id}"):
        write_contents(folder, bank, BankDescription(bank.provenance, len(bank), rows, bank.head is not None))
        full = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        # Check this before anything is uploaded or a branch is created.
        require_visibility(api.dataset_info(full), private)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(full, repo_type="dataset", branch=revision, exist_ok=True)

        def commit() -> CommitInfo:
            info = api.dataset_info(full, revision=revision)
            public = require_visibility(info, private)
            describe(folder, bank, full, rows, license, public)
            return upload(api, info, folder, revision, commit_message or f"Bank {full.partition('/')[2]}")

        made = on_newest(commit)
        if not private:
            say_public(api.dataset_info(full), len(bank))
    return made


def warn_of_folder(bank: PromptBank, where: str) -> None:
    """Warn that the bank's LLM has a path of this machine for a name."""
    if is_folder(bank.model.model_id):
        logger.warning(
            "the bank's LLM is recorded as a folder, and %s will show that; record its Hub id with "
            "bank.with_provenance(model=...)",
            where,
        )


def require_visibility(info: DatasetInfo | BucketInfo, private: bool) -> bool:
    """Whether the repository or bucket is public.

    Raises:
        ConfigurationError: it is public, but ``private`` is true.
    """
    public = info.private is not True
    if public and private:
        raise ConfigurationError(
            f"{info.id} is public: anyone could read these users' prompts, which are personal data. Nothing was "
            "uploaded. Make it private in its settings, choose another name, or give private=False (puma-hub push "
            "--public) if everyone may read them"
        )
    return public


def describe(
    folder: Path, bank: PromptBank, repo_id: str, rows: int, license: str | None, public: bool
) -> BankDescription:
    """Write the card and the description of the shards in ``folder``."""
    card = str(bank_card(bank, repo_id, license, public)).encode()
    (folder / CARD_FILE).write_bytes(card)
    description = BankDescription(
        bank.provenance, len(bank), rows, bank.head is not None, license, hashlib.sha256(card).hexdigest()
    )
    description.write(folder)
    return description


def upload(api: HfApi, before: DatasetInfo, folder: Path, revision: str | None, message: str) -> CommitInfo:
    """Commit a bank's files on top of the revision ``before``. The Hub refuses (412) if there is a newer one."""
    made: CommitInfo = api.upload_folder(
        repo_id=before.id,
        repo_type="dataset",
        folder_path=folder,
        revision=revision,
        commit_message=message,
        delete_patterns=list(_REPLACED),
        parent_commit=before.sha,
    )
    return made


def say_public(info: DatasetInfo | BucketInfo, users: int) -> None:
    """Warn that anyone can read the bank, or that it stayed private."""
    if info.private:
        logger.warning("%s was private and stays private; its settings can make it public", info.id)
    else:
        logger.warning(
            "%s is public: anyone can read and keep the prompts of these %d users, and predict their answers with "
            "them; this cannot be undone",
            info.id,
            users,
        )
