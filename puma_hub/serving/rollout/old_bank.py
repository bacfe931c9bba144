"""Deleting the bank of a version that is no longer served. Prompts are personal data."""

from __future__ import annotations

import shutil
from pathlib import Path

from puma_hub.bank.folder import LAYOUT
from puma_hub.bank.keyed_files import DESCRIPTION_FILE
from puma_hub.bank.keyed_files import LAYOUT as STORE_LAYOUT
from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.storage.layout import require_replaceable, resolved, within


def require_deletable(bank: str, kept: str) -> None:
    """Refuse to delete anything but the folder of a bank or keyed store that holds nothing else.

    Args:
        kept: the bank that is still served.

    Raises:
        ConfigurationError: the bank is on the Hub, or shares a folder with the other.
        StorageError: the folder holds something else.
    """
    if not Path(bank).is_dir():
        raise ConfigurationError(f"{bank} is on the Hub; retire the version without --delete-bank and delete it there")
    ours, other = resolved(bank), resolved(kept)
    if within(ours, other) or within(other, ours):
        raise ConfigurationError(f"{kept} is still served; retire the version without --delete-bank")
    require_replaceable(bank, STORE_LAYOUT if (Path(bank) / DESCRIPTION_FILE).is_file() else LAYOUT)


def delete_bank(bank: str) -> None:
    """Delete a folder that :func:`require_deletable` has let pass.

    Raises:
        StorageError: it cannot be deleted.
    """
    try:
        shutil.rmtree(resolved(bank))
    except OSError as error:
        raise StorageError(f"cannot delete {bank}: {error.strerror or error}; delete what is left of it") from error
