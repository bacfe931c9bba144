"""Migrating a bank file by file, in little memory; a migration that was killed goes on after its last whole file."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from datasets.utils import tqdm

from puma_hub.bank import PromptBank
from puma_hub.bank.batch_writer import describe
from puma_hub.bank.description import shard_names
from puma_hub.bank.folder import LAYOUT, describe_folder
from puma_hub.bank.rounding import WHOLE
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE, files_of, rows_in
from puma_hub.errors import ConfigurationError, PumaHubError, StorageError
from puma_hub.migration.changes import Changes
from puma_hub.migration.file_writer import FileWriter
from puma_hub.migration.identity import identity_of
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.run import ChosenEngine
from puma_hub.migration.share import ALL, Share
from puma_hub.storage import new_folder
from puma_hub.storage.layout import require_replaceable, require_writable
from puma_hub.storage.unfinished import unfinished_folder

logger = logging.getLogger(__name__)

_VALUE_BYTES = 4
_ID_BYTES = 24  # about


def into_files(
    save_directory: str | os.PathLike[str],
    plan: MigrationPlan,
    engine: ChosenEngine,
    max_shard_size: int | str | None,
    share: Share = ALL,
    changes: Changes | None = None,
    dtype: str = WHOLE,
) -> PromptBank | None:
    """The target bank of a plan, written file by file and opened in its files; see :func:`puma_hub.migrate_to`.

    Args:
        plan: its users in the order of their ids.
        share: the files that this process writes.
        changes: since an earlier migration, whose prompts are taken over, and whose rounding.
        dtype: of prompts in the files, see :class:`puma_hub.bank.rounding.Rounding`.

    Returns:
        The bank; None where files that other processes write are not there yet. Whoever finds all files there puts the
        bank in its place.

    Raises:
        ConfigurationError: several processes are to share a bank that is in memory.
    """
    if changes is None:
        plan = plan.kept_as(dtype, engine.batch_size, engine.run)
    provenance, head, folder = plan.provenance(), plan.head(), Path(save_directory)
    one = _ID_BYTES + _VALUE_BYTES * provenance.prompt_length * provenance.model.hidden_size
    per_file = _rows_per_file(plan, max_shard_size, one)
    names = shard_names(files_of(len(plan.users), per_file))
    require_replaceable(folder, LAYOUT)
    require_writable(folder)
    identity = identity_of(plan, engine.name, engine.options, per_file, changes)
    if identity is None and share.of > 1:
        raise ConfigurationError("a bank in memory cannot be shared out; save it, and give the bank in its folder")
    if share.of > 1 and _is_there(folder, identity):
        return PromptBank.from_pretrained(save_directory)
    with unfinished_folder(folder, identity) as unfinished:
        work, unfinished.kept = unfinished.folder, share.of > 1  # others may have files in it
        done = sum((work / name).is_file() for name in names)
        if done:
            logger.info("%d of %d files were done before", done, len(names))
        writer = FileWriter(plan, engine, changes, per_file, tuple(names), work, one)
        ours = [number for number in range(len(names)) if share.has(number)]
        with tqdm(desc="migrating", unit="prompt", total=sum(map(writer.users_in, ours))) as bar:
            engine.in_files(writer, ours, bar.update)
        missing = [name for name in names if not (work / name).is_file()]
        if missing:
            logger.info("%d of %d files are left to others", len(missing), len(names))
            return None
        try:
            with new_folder(folder, LAYOUT) as staged:
                for name in names:
                    (staged / name).parent.mkdir(exist_ok=True)
                    _link(work / name, staged / name)
                describe(staged, provenance, head, len(plan.users), per_file, identity if share.of > 1 else None)
        except (StorageError, OSError):
            if not _is_there(folder, identity):  # another process may have been faster
                raise
        unfinished.kept = False
    return PromptBank.from_pretrained(save_directory)


def _rows_per_file(plan: MigrationPlan, max_shard_size: int | str | None, one: int) -> int:
    if max_shard_size is None and len(plan.banks) == 1:
        found = plan.banks[0].stored.rows_per_file
        if found is not None:
            return found
    return rows_in(DEFAULT_SHARD_SIZE if max_shard_size is None else max_shard_size, one)


def _is_there(folder: Path, identity: str | None) -> bool:
    """Whether the bank in ``folder`` is the result of this very migration."""
    try:
        return identity is not None and describe_folder(folder).migration == identity
    except (PumaHubError, OSError):
        return False


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, or move it where the disk has no such thing."""
    try:
        os.link(file, name)
    except OSError:
        shutil.move(file, name)
