"""Writing a bank into a bucket, which has no transactions.

New files get new names. Then the description, which names them, is replaced, and then the old files are deleted. So the
files that a description names are there, unless it is replaced while they are read: readers then begin again. A process
that is killed leaves the old bank or the new one, and files that nobody reads, which the next change deletes.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from puma_hub.bank import PromptBank
from puma_hub.bank.bucket import download, forget
from puma_hub.bank.description import DESCRIPTION_FILE, BankDescription
from puma_hub.bank.folder import write_contents
from puma_hub.bank.publish import require_visibility, say_public, warn_of_folder
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE, shard_rows
from puma_hub.errors import HubError, StorageError
from puma_hub.hub.buckets import BucketFolder
from puma_hub.hub.card_parts import require_license
from puma_hub.hub.failures import hub_errors
from puma_hub.storage import read_json, scratch_folder

if TYPE_CHECKING:
    from huggingface_hub import BucketFile, BucketUrl

_TRIES = 4
_PAUSE = 0.4
_OURS = re.compile(r"data/train-\d{5,}-of-\d{5,}-[0-9a-f]{16}\.parquet|head-[0-9a-f]{16}\.safetensors")
_PLAIN = re.compile(r"data/train-\d{5,}-of-\d{5,}\.parquet|head\.safetensors")
"""The names in a folder that was copied into the bucket by other means."""


class _OvertakenError(HubError):
    """Somebody else wrote the bank meanwhile."""


def publish_to_bucket(
    bank: PromptBank,
    address: str,
    *,
    private: bool = True,
    token: str | bool | None = None,
    license: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
) -> BucketUrl:
    """Implements :meth:`puma_hub.PromptBank.push_to_bucket`."""
    private = private is not False  # only an explicit False makes a bank public
    require_license(license)
    rows = shard_rows(bank.stored, max_shard_size)
    place = BucketFolder.of(address, token)
    warn_of_folder(bank, str(place))
    with hub_errors(f"push to {place}"), scratch_folder() as folder:
        place.api.create_bucket(place.bucket, private=private, exist_ok=True)
        require_visibility(place.api.bucket_info(place.bucket), private)
        before = place.info([DESCRIPTION_FILE])
        description = BankDescription(
            bank.provenance, len(bank), rows, bank.head is not None, license, suffix=_suffix()
        )
        _prepare(folder, bank, description)
        place.put(folder, description.files)
        _finish(place, folder, description, bool(before))
        if not private:
            say_public(place.api.bucket_info(place.bucket), len(bank))
    return place.url


def change_bucket(
    address: str, change: Callable[[PromptBank], PromptBank], private: bool, token: str | bool | None
) -> BucketUrl:
    """Replace a bank in a bucket by ``change`` of it; the old files are then gone from the bucket.

    Raises:
        ConfigurationError: the bucket is public and ``private`` is true.
        HubError: the Hub refuses, or cannot be reached; or others wrote the bank at the same time.
    """
    place = BucketFolder.of(address, token)
    try:
        with hub_errors(f"change the users of {place}"):
            require_visibility(place.api.bucket_info(place.bucket), private)
            _change_newest(place, change)
    finally:
        forget(place)  # also where the user is not in the bank any more
    return place.url


def _change_newest(place: BucketFolder, change: Callable[[PromptBank], PromptBank]) -> None:
    """Make the change, and again if somebody else wrote the bank meanwhile."""
    for tried in range(1, _TRIES):
        try:
            _change(place, change)
            return
        except _OvertakenError:
            time.sleep(_PAUSE * tried)
    _change(place, change)


def _change(place: BucketFolder, change: Callable[[PromptBank], PromptBank]) -> None:
    before = place.info([DESCRIPTION_FILE])
    # In temporary folders, not in a cache, so that no copy of a deleted user is left behind.
    with scratch_folder() as old, scratch_folder() as new:
        was, bank = download(place, old)
        _require_unchanged(place, before)
        _delete_others(place, was, True)  # of a change that was killed: whoever repeats it may have nothing to change
        bank = change(bank)
        now = BankDescription(
            bank.provenance, len(bank), was.rows_per_shard, bank.head is not None, was.license, suffix=_suffix()
        )
        _prepare(new, bank, now)
        place.put(new, now.files)
        try:
            _require_unchanged(place, before)
        except _OvertakenError:
            place.delete(now.files)
            raise
        _finish(place, new, now, True)


def _require_unchanged(place: BucketFolder, before: dict[str, BucketFile]) -> None:
    if place.info([DESCRIPTION_FILE]) != before:
        raise _overtaken(place)


def _suffix() -> str:
    return secrets.token_hex(8)


def _prepare(folder: Path, bank: PromptBank, description: BankDescription) -> None:
    write_contents(folder, bank, description)
    description.write(folder)


def _finish(place: BucketFolder, folder: Path, description: BankDescription, was_bank: bool) -> None:
    """Make the files of ``description``, which are in the bucket, the bank, and delete those of the one before."""
    place.put(folder, [DESCRIPTION_FILE])
    ours = place.info([DESCRIPTION_FILE])
    if not _is_described(place, ours, description):
        raise _overtaken(place)
    _delete_others(place, description, was_bank)
    present = place.info(description.files)
    missing = [name for name in description.files if name not in present]
    if missing:  # another process took them for what a killed one had left
        place.put(folder, missing)
    _require_unchanged(place, ours)


def _delete_others(place: BucketFolder, description: BankDescription, was_bank: bool) -> None:
    kept = {*description.files}
    old = [
        name
        for name in place.names()
        if name not in kept and (_OURS.fullmatch(name) or (was_bank and _PLAIN.fullmatch(name)))
    ]
    if old:
        place.delete(old)


def _is_described(place: BucketFolder, found: dict[str, BucketFile], description: BankDescription) -> bool:
    """Whether the description that is in the bucket is this one."""
    with scratch_folder() as folder:
        place.fetch(found, folder)
        try:
            return read_json(folder / DESCRIPTION_FILE).get("suffix") == description.suffix
        except StorageError:
            return False


def _overtaken(place: BucketFolder) -> HubError:
    return _OvertakenError(
        f"{place} was changed by somebody else at the same time; a bucket has no locks, so let one process write at a "
        "time; look at it and run again"
    )
