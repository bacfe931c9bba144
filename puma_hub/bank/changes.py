"""Changing the users of a published bank: each change is one commit on top of the newest revision.

In a bucket, :mod:`puma_hub.bank.bucket_changes` makes the change.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from puma_hub.bank import PromptBank
from puma_hub.bank.download import describe_bank, load_bank
from puma_hub.bank.folder import write_contents
from puma_hub.bank.publish import describe, require_visibility, upload
from puma_hub.bank.users import user_list
from puma_hub.errors import ConfigurationError
from puma_hub.hub.buckets import is_bucket, require_no_revision
from puma_hub.hub.card_parts import CARD_FILE
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.newest import on_newest
from puma_hub.storage import scratch_folder

if TYPE_CHECKING:
    from huggingface_hub import BucketUrl, CommitInfo, HfApi
    from huggingface_hub.hf_api import DatasetInfo

logger = logging.getLogger(__name__)

_Change: TypeAlias = "Callable[[PromptBank], PromptBank]"


def update_users(
    repo_id: str,
    bank: PromptBank,
    *,
    private: bool = True,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo | BucketUrl:
    """Add the users of ``bank`` to a published bank, or replace their prompts if they are in it already.

    Changes that others make at the same time are kept: the update is then repeated on top of theirs. In a bucket that
    cannot be ensured: let one process write at a time.

    Args:
        repo_id: a repository, or a bucket's address ``hf://buckets/namespace/name``.
        private: give False to add users to a bank that anyone can read.
        revision, commit_message: the branch to change, and what to say. A bucket has neither.

    Returns:
        The commit, or the bucket's address.

    Raises:
        ConfigurationError: the repository is public and ``private`` is true, or a bucket gets what it does not have.
        MismatchError: ``bank`` has another LLM, template, task, head or base; see :meth:`PromptBank.update`.
        BankError: prompt lengths or columns differ.
        HubError: the Hub refuses, or cannot be reached. Its newest revision is complete in any case.
    """
    if is_bucket(repo_id):
        return _in_bucket(repo_id, lambda old: old.update(bank), private is not False, token, revision, commit_message)
    message = commit_message or f"Update {len(bank)} users"
    return _change(repo_id, lambda old: old.update(bank), private is not False, token, revision, message)


def delete_users(
    repo_id: str,
    user_ids: Sequence[str],
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo | BucketUrl:
    """Delete users from a published bank.

    Of a repository, the newest revision is changed: older ones, other branches and tags, and downloaded copies still
    hold the users. A bucket has no older ones, see docs/banks.md.

    Args:
        repo_id: a repository, or a bucket's address ``hf://buckets/namespace/name``.
        revision, commit_message: the branch to change, and what to say. A bucket has neither.

    Returns:
        The commit, or the bucket's address.

    Raises:
        ConfigurationError: a bucket gets what it does not have.
        UnknownUserError: a user is not in the newest revision. Then nothing is deleted.
        HubError: the Hub refuses, or cannot be reached. Its newest revision is complete in any case.
    """
    users = user_list(user_ids)
    if is_bucket(repo_id):
        return _in_bucket(repo_id, lambda old: old.remove(users), False, token, revision, commit_message)
    message = commit_message or f"Delete {len(users)} users"
    return _change(repo_id, lambda old: old.remove(users), False, token, revision, message)


def _in_bucket(
    address: str,
    change: _Change,
    private: bool,
    token: str | bool | None,
    revision: str | None,
    message: str | None,
) -> BucketUrl:
    from puma_hub.bank.bucket_changes import change_bucket

    require_no_revision(revision, address)
    if message is not None:
        raise ConfigurationError(f"{address} is in a bucket, which keeps no messages; leave the message out")
    return change_bucket(address, change, private, token)


def _change(
    repo_id: str,
    change: _Change,
    private: bool,
    token: str | bool | None,
    revision: str | None,
    message: str,
) -> CommitInfo:
    from huggingface_hub import HfApi

    api = HfApi(token=token)

    def commit() -> CommitInfo:
        info = api.dataset_info(repo_id, revision=revision)
        public = require_visibility(info, private)
        # In a temporary folder, not in the Hub's cache, so that no copy of a deleted user is left behind.
        with scratch_folder() as place:
            downloads = f"{place}/cache/hub"
            before, _ = describe_bank(info.id, info.sha, token=token, cache_dir=downloads)
            old = load_bank(info.id, revision=info.sha, token=token, cache_dir=f"{place}/cache")
            new, folder = change(old), place / "new"
            folder.mkdir()
            description = describe(folder, new, info.id, before.rows_per_shard, before.license, public)
            write_contents(folder, new, description)
            if _edited(api, info, before.card, downloads):
                (folder / CARD_FILE).unlink()
                logger.warning("the card of %s was edited by hand and is not changed; check if it still fits", info.id)
            return upload(api, info, folder, revision, message)

    with hub_errors(f"change the users of {repo_id}"):
        return on_newest(commit)


def _edited(api: HfApi, info: DatasetInfo, made: str | None, downloads: str) -> bool:
    """Whether the card was edited: there is one, and it is not the one generated with the bank."""
    if all(file.rfilename != CARD_FILE for file in info.siblings or ()):
        return False
    path = api.hf_hub_download(info.id, CARD_FILE, repo_type="dataset", revision=info.sha, cache_dir=downloads)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() != made
