"""Loading a bank from a bucket, whose files somebody may be replacing at the same time."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import HfFileSystem, constants

from puma_hub.bank import PromptBank
from puma_hub.bank.description import DESCRIPTION_FILE, BankDescription
from puma_hub.bank.folder import LAYOUT, read_head, read_rows
from puma_hub.bank.stream import read_users
from puma_hub.bank.users import require_distinct, user_list
from puma_hub.errors import CheckpointError, HubNotFoundError, PumaHubError, StorageError
from puma_hub.hub.buckets import SCHEME, BucketFolder
from puma_hub.hub.naming import slug
from puma_hub.storage import new_folder, read_json, scratch_folder, write_json
from puma_hub.storage.layout import Layout
from puma_hub.storage.staging import bring_back

if TYPE_CHECKING:
    from huggingface_hub import BucketFile

_HASHES = "bucket.json"
"""In the cache beside a bank's files: the hashes that the bucket had for them."""
_CACHED = Layout("a downloaded bank", (_HASHES, DESCRIPTION_FILE), LAYOUT.others)
_SHOWN = 3
_Read = TypeVar("_Read")


def load_from_bucket(
    address: str,
    *,
    users: Iterable[str] | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> PromptBank:
    """Implements :meth:`puma_hub.PromptBank.from_pretrained` for buckets.

    The cache holds the newest version alone: loading a bank deletes what was there of an older one.
    """
    place = BucketFolder.of(address, token)
    if users is None:
        cache = _cache(place, cache_dir)
        return _settled(place, lambda: _whole(place, cache, force_download))
    wanted = user_list(users)
    require_distinct(wanted)
    return _settled(place, lambda: _some(place, wanted))


def describe_bucket(address: str, token: str | bool | None = None) -> BankDescription:
    """The description of a bank in a bucket; no prompt is downloaded.

    Raises:
        ConfigurationError: this is no bucket's address.
        HubError: the bucket holds no bank, or cannot be read.
        BankError, CheckpointError: the description cannot be used, or files are missing.
    """
    place = BucketFolder.of(address, token)

    def read() -> BankDescription:
        with scratch_folder() as folder:
            return look_up(place, folder)[0]

    return _settled(place, read)


def look_up(place: BucketFolder, folder: Path) -> tuple[BankDescription, dict[str, BucketFile]]:
    """The description of a bank, put into ``folder``, and what the bucket knows of its files.

    Raises:
        HubError: the bucket holds no bank, or cannot be read.
        BankError, CheckpointError: the description cannot be used, or files are missing.
    """
    found = place.info([DESCRIPTION_FILE])
    if not found:
        raise HubNotFoundError(
            f"cannot load a bank from {place}: there is no {DESCRIPTION_FILE} in it; check that it is the bucket and "
            "the folder you mean"
        )
    place.fetch(found, folder)
    description = BankDescription.read(folder / DESCRIPTION_FILE, str(place))
    files = place.info(description.files)
    missing = [name for name in description.files if name not in files]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" and more" if len(missing) > _SHOWN else "")
        raise CheckpointError(f"the bank {place} lacks {shown}; its owner must publish it again")
    return description, found | files


def download(place: BucketFolder, folder: Path) -> tuple[BankDescription, PromptBank]:
    """Copy a bank into ``folder``, and open it there. Raises the errors of :func:`look_up`."""
    description, files = look_up(place, folder)
    place.fetch({name: file for name, file in files.items() if name != DESCRIPTION_FILE}, folder)
    return description, _opened(folder, description, place)


def forget(place: BucketFolder) -> None:
    """Delete what the cache holds of a bank."""
    shutil.rmtree(_cache(place, None), ignore_errors=True)


def _settled(place: BucketFolder, read: Callable[[], _Read]) -> _Read:
    """Call ``read``; if it fails and somebody else wrote the bank meanwhile, once more."""
    before = place.info([DESCRIPTION_FILE])
    try:
        return read()
    except PumaHubError:
        if place.info([DESCRIPTION_FILE]) == before:
            raise
    return read()


def _whole(place: BucketFolder, cache: Path, force_download: bool) -> PromptBank:
    with scratch_folder() as folder:
        description, files = look_up(place, folder)
    if force_download or not _is_cached(files, cache):
        with new_folder(cache, _CACHED) as staged:
            place.fetch(files, staged)
            write_json(staged / _HASHES, _hashes(files))
    return _opened(cache, description, place)


def _some(place: BucketFolder, wanted: list[str]) -> PromptBank:
    """The bank of some users, without a file of it left on the disk."""
    with scratch_folder() as folder:
        description, files = look_up(place, folder)
        place.fetch({name: file for name, file in files.items() if name == description.head_file}, folder)
        head = read_head(folder, description)
    filesystem = HfFileSystem(token=place.token, skip_instance_cache=True)  # another one may remember older files
    root = str(place).removeprefix("hf://")
    dataset = read_users(filesystem, root, str(place), description, wanted)
    return PromptBank(dataset, description.provenance, head).select(wanted)


def _opened(folder: Path, description: BankDescription, place: BucketFolder) -> PromptBank:
    rows = read_rows(folder, description, str(place))
    return PromptBank.of_rows(rows, description.provenance, read_head(folder, description))


def _cache(place: BucketFolder, cache_dir: str | os.PathLike[str] | None) -> Path:
    root = Path(constants.HF_ASSETS_CACHE, "puma_hub") if cache_dir is None else Path(cache_dir)
    exact = hashlib.sha256(f"{place.api.endpoint} {place}".encode()).hexdigest()[:16]
    return root / "buckets" / f"{slug(str(place).removeprefix(SCHEME))}-{exact}"


def _hashes(files: Mapping[str, BucketFile]) -> dict[str, str]:
    return {name: file.xet_hash for name, file in files.items()}


def _is_cached(files: Mapping[str, BucketFile], cache: Path) -> bool:
    bring_back(cache)
    with suppress(StorageError, OSError):
        whole = all((cache / name).stat().st_size == file.size for name, file in files.items())
        return whole and read_json(cache / _HASHES) == _hashes(files)
    return False
