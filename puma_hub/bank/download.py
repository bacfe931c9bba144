"""Loading a bank from a folder or from the Hub. Only its Parquet, JSON and safetensors files are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfFileSystem

from puma_hub.bank import PromptBank
from puma_hub.bank.description import DESCRIPTION_FILE, BankDescription
from puma_hub.bank.folder import describe_folder, read_head, read_rows
from puma_hub.bank.stream import read_users
from puma_hub.bank.users import require_distinct, user_list
from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.hub.buckets import is_bucket, require_no_revision
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_hub_id
from puma_hub.storage.staging import bring_back


def load_bank(
    name: str,
    *,
    users: Iterable[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> PromptBank:
    """Implements :meth:`puma_hub.PromptBank.from_pretrained`."""
    if is_bucket(name):
        require_no_revision(revision, name)
        from puma_hub.bank.bucket import load_from_bucket

        return load_from_bucket(name, users=users, token=token, cache_dir=cache_dir, force_download=force_download)
    bring_back(Path(name))
    if os.path.isdir(name):
        bank = _stored_bank(Path(name), describe_folder(Path(name)), name)
        return bank if users is None else bank.select(users)
    options: dict[str, Any] = {
        "token": token,
        "cache_dir": None if cache_dir is None else os.path.join(cache_dir, "hub"),
        "force_download": force_download,
    }
    description, folder = describe_bank(name, revision, **options)
    if users is not None:
        wanted = user_list(users)
        require_distinct(wanted)
        head = _fetch(name, description.files[len(description.shards) :], folder.name, **options)
        filesystem = HfFileSystem(token=token)
        dataset = read_users(filesystem, f"datasets/{name}@{folder.name}", name, description, wanted)
        return PromptBank(dataset, description.provenance, read_head(head or folder, description)).select(wanted)
    _fetch(name, description.files, folder.name, **options)
    return _stored_bank(folder, description, name)


def describe_bank(repo_id: str, revision: str | None = None, **options: Any) -> tuple[BankDescription, Path]:
    """The description of a published bank, and its folder in the cache, which is named after the commit.

    ``options`` are those of ``hf_hub_download``.

    Raises:
        ConfigurationError: this is a bucket's address.
        StorageError: this cannot be a repository's name.
        HubError: the repository holds no bank, or cannot be read.
    """
    if is_bucket(repo_id):
        raise ConfigurationError(
            f"{repo_id} is in a bucket, which keeps no revisions to tell apart; give a folder or a repository"
        )
    if not is_hub_id(repo_id):
        raise StorageError(
            f"no prompt bank at {repo_id}: it is not a folder, and not a repository's name either; check the name"
        )
    folder = _fetch(repo_id, [DESCRIPTION_FILE], revision, **options)
    assert folder is not None
    return BankDescription.read(folder / DESCRIPTION_FILE, repo_id), folder


def _stored_bank(folder: Path, description: BankDescription, where: str) -> PromptBank:
    rows = read_rows(folder, description, where)
    return PromptBank.of_rows(rows, description.provenance, read_head(folder, description))


def _fetch(repo_id: str, names: Sequence[str], revision: str | None, **options: Any) -> Path | None:
    """The folder in the cache with these files of one commit; None if ``names`` is empty."""
    from huggingface_hub import hf_hub_download

    folder = None
    with hub_errors(f"load a bank from {repo_id}, which is not a local folder"):
        for name in names:
            path = Path(hf_hub_download(repo_id, name, repo_type="dataset", revision=revision, **options))
            folder = path.parents[name.count("/")]
    return folder
