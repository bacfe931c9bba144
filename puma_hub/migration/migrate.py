"""Applying an adapter to whole banks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.reference import Reference
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE
from puma_hub.migration.missing import LEAVE_OUT
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.run import chosen_engine, in_memory, into_files


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
    run = chosen_engine(batch_size, engine, options)
    return in_memory(MigrationPlan.of(adapter, bank, mean, missing, base), batch_size, run)


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
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    **options: Any,
) -> PromptBank:
    """As :func:`migrate` and ``save_pretrained``, batch by batch from files to files: for banks larger than memory.

    The prompts have the same bits. The bank stands in its folder when the last batch is written.

    Raises:
        MismatchError, BankError, ConfigurationError: see :func:`migrate`.
        StorageError: the folder holds anything but a bank, or cannot be written.
    """
    run = chosen_engine(batch_size, engine, options)
    plan = MigrationPlan.of(adapter, bank, mean, missing, base)
    return into_files(save_directory, plan, batch_size, run, max_shard_size)
