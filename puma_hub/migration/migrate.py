"""Applying an adapter to whole banks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.reference import Reference
from puma_hub.bank.rounding import WHOLE, Rounding
from puma_hub.migration.changes import Changes
from puma_hub.migration.files import into_files
from puma_hub.migration.missing import LEAVE_OUT
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.run import ChosenEngine, in_memory
from puma_hub.migration.share import ALL, Share


def migrate(
    adapter: PumaAdapter,
    bank: PromptBank | Sequence[PromptBank],
    *,
    batch_size: int = 4096,
    mean: Any = None,
    missing: str = LEAVE_OUT,
    base: Reference | None = None,
    engine: str = "torch",
    **options: Any,
) -> PromptBank:
    """Migrate the prompts of a bank, or of one bank for each source, to the adapter's target LLM.

    Prompts are standardised by the mean of their own training, which the bank's provenance records: a bank of another
    training than the adapter's source bank has another base. Offsets are corrected for the ``sensitivity`` of the
    bank's statistics, so that they move the mean prediction as far as they did at their own base. All migrated prompts
    stand on the adapter's target base. The rating head was trained for that base, so the result carries the adapter's
    head. For several sources the banks are joined on ``user_id`` in the adapter's source order.

    Args:
        batch_size: prompts at a time.
        mean: where the provenance does not tell: a bank of the same training, its mean prompt ``(l, d)``, or
            ``"adapter"`` for prompts that were trained together with the adapter's source bank. For several sources a
            list of these.
        missing: for several sources, what becomes of users that some bank lacks: ``"leave-out"``, or one of
            :data:`puma_hub.extensions.STAND_INS`: ``"mean"`` (the bank's mean prompt stands in) or ``"predict"`` (ridge
            regression from the banks that have the user, learnt on users who are in all of them). The log and the
            provenance count them.
        base: for a bank of items and an adapter of users, which knows no base of items: of
            :func:`puma_hub.training.item_base`.
        engine: one of :data:`puma_hub.extensions.ENGINES`, with its ``options``.

    Raises:
        MismatchError: a bank is of another LLM or prompt length, or of items where the adapter is of users, or prompts
            lie absurdly far from their mean.
        BankError: banks share no user, too few to learn from, the mean of a bank is not known, or the result is not
            finite.
        ConfigurationError: the batch size is below 1, there is no such engine, option or stand-in, or there is one
            source and nothing to stand in for.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    return in_memory(MigrationPlan.of(adapter, bank, mean, missing, base), chosen)


def migrate_to(
    save_directory: str | os.PathLike[str],
    adapter: PumaAdapter,
    bank: PromptBank | Sequence[PromptBank],
    *,
    batch_size: int = 4096,
    mean: Any = None,
    missing: str = LEAVE_OUT,
    base: Reference | None = None,
    engine: str = "torch",
    max_shard_size: int | str | None = None,
    dtype: str = WHOLE,
    **options: Any,
) -> PromptBank:
    """As :func:`migrate` and ``save_pretrained``, file by file: for banks larger than memory.

    The prompts have the same bits. Reading, computing and writing go on at the same time, and memory does not grow with
    the bank. The bank stands in its folder when the last file is written. If the process is killed before, the same
    call goes on after the last file that was done.

    Args:
        max_shard_size: of the target's files, such as ``"500MB"``; by default each of them has the users of one of the
            source's files, and 500 MB where these cannot be told.
        dtype: ``float32``, or ``bfloat16``, ``float16`` or ``int8``: prompts are rounded, and files are smaller. They
            are float32 for every reader. What rounding changes is in the provenance's details.

    Raises:
        MismatchError, BankError, ConfigurationError: see :func:`migrate`.
        StorageError: the folder holds anything but a bank, or cannot be written.
    """
    given = {"batch_size": batch_size, "mean": mean, "missing": missing, "base": base, "engine": engine}
    found = migrate_share(
        save_directory, adapter, bank, ALL, **given, max_shard_size=max_shard_size, dtype=dtype, **options
    )
    assert found is not None  # nothing is left to others
    return found


def migrate_share(
    save_directory: str | os.PathLike[str],
    adapter: PumaAdapter,
    bank: PromptBank | Sequence[PromptBank],
    share: Share,
    *,
    batch_size: int = 4096,
    mean: Any = None,
    missing: str = LEAVE_OUT,
    base: Reference | None = None,
    engine: str = "torch",
    max_shard_size: int | str | None = None,
    dtype: str = WHOLE,
    **options: Any,
) -> PromptBank | None:
    """One process's part of :func:`migrate_to`, for several that write to one disk, such as an array of jobs.

    Each file is one process's. The process that finds all files there, in whatever order they end, puts the bank in its
    place. A share that was killed may be run again: it does what is left.

    Args:
        share: ``Share(2, 8)`` is the second of eight.

    Returns:
        The bank; None where other processes' files are not there yet.

    Raises:
        ConfigurationError: the bank is in memory; and as :func:`migrate_to`.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    plan = MigrationPlan.of(adapter, bank, mean, missing, base).in_order_of_users()
    return into_files(save_directory, plan, chosen, max_shard_size, share, dtype=dtype)


def migrate_changes(
    save_directory: str | os.PathLike[str],
    adapter: PumaAdapter,
    bank: PromptBank,
    since: PromptBank,
    *,
    batch_size: int = 4096,
    engine: str = "torch",
    max_shard_size: int | str | None = None,
    **options: Any,
) -> tuple[PromptBank, int]:
    """Bring a migrated bank up to date: only users who are new, or whose prompts have changed, are migrated.

    The others keep their migrated prompts, to the bit. New ones are rounded as these were. Users who are not in
    ``bank`` any more are deleted.

    Args:
        save_directory: of the migrated bank, which is replaced.
        bank: the source bank as it is now.
        since: the source bank as it was when ``save_directory`` was made, by the same adapter.

    Returns:
        The bank, and how many users kept their prompts.

    Raises:
        MismatchError: the banks are of different trainings, or ``save_directory`` is not what the adapter makes of
            ``since``: some of its users are migrated again and compared.
        ConfigurationError: the adapter has several sources; and as :func:`migrate_to`.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    plan = MigrationPlan.of(adapter, bank).in_order_of_users()
    target = PromptBank.from_pretrained(save_directory)
    plan = replace(plan, rounding=Rounding.of(target.provenance.details))
    changes = Changes.of(plan, since, target, chosen.run)
    found = into_files(save_directory, plan, chosen, max_shard_size, changes=changes)
    assert found is not None  # nothing is left to others
    return found, changes.kept
