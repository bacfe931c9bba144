"""Applying an adapter to whole banks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.columns import dataset_of_arrays
from puma_hub.bank.reference import Reference
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import ENGINES
from puma_hub.migration.plan import MigrationPlan, say_distances


def migrate(
    adapter: PumaAdapter,
    bank: PromptBank | Sequence[PromptBank],
    *,
    batch_size: int = 4096,
    mean: Any = None,
    base: Reference | None = None,
    engine: str = "torch",
    **options: Any,
) -> PromptBank:
    """Migrate the prompts of a bank, or of one bank for each source, to the adapter's target LLM.

    Prompts are standardised by the mean of their own training, which the bank's provenance records: a bank of another
    training than the adapter's source bank has another base. Offsets are corrected for the ``sensitivity`` of the
    bank's statistics, so that they move the mean prediction as far as they did at their own base. All migrated prompts
    stand on the adapter's target base. The rating head was trained for that base, so the result carries the adapter's
    head. For several sources the banks are joined on ``user_id`` in the adapter's source order; users missing from one
    bank are left out, and counted in the log and in the provenance.

    Args:
        batch_size: prompts at a time.
        mean: where the provenance does not tell: a bank of the same training, its mean prompt ``(l, d)``, or
            ``"adapter"`` for prompts that were trained together with the adapter's source bank. For several sources a
            list of these.
        base: for a bank of items and an adapter of users, which knows no base of items: of
            :func:`puma_hub.training.item_base`.
        engine: one of :data:`puma_hub.extensions.ENGINES`, with its ``options``.

    Raises:
        MismatchError: a bank is of another LLM or prompt length, or of items where the adapter is of users, or prompts
            lie absurdly far from their mean.
        BankError: banks share no user, the mean of a bank is not known, or the result is not finite.
        ConfigurationError: the batch size is below 1, or there is no such engine or option.
    """
    run = _engine(batch_size, engine, options)
    plan = MigrationPlan.of(adapter, bank, mean, base)
    provenance = plan.provenance()
    prompts = np.empty((len(plan.users), provenance.prompt_length, provenance.model.hidden_size), np.float32)
    end = 0
    for _, part in _migrated(plan, batch_size, run):
        prompts[end : (end := end + len(part))] = part
    prompts.setflags(write=False)  # so that the bank takes them without a copy
    if provenance.statistics is None:
        provenance = replace(provenance, statistics=BankStatistics.of_prompts(prompts))
    return PromptBank(dataset_of_arrays(plan.users, prompts), provenance, plan.head())


def migrate_to(
    save_directory: str | os.PathLike[str],
    adapter: PumaAdapter,
    bank: PromptBank | Sequence[PromptBank],
    *,
    batch_size: int = 4096,
    mean: Any = None,
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
    run = _engine(batch_size, engine, options)
    plan = MigrationPlan.of(adapter, bank, mean, base).in_order_of_users()
    return PromptBank.from_batches(
        save_directory,
        _migrated(plan, batch_size, run),
        plan.provenance(),
        plan.head(),
        max_shard_size=max_shard_size,
    )


def _engine(batch_size: int, engine: str, options: Mapping[str, Any]) -> Any:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    return ENGINES.bound(engine, options)


def _migrated(plan: MigrationPlan, batch_size: int, run: Any) -> Iterator[tuple[list[str], np.ndarray]]:
    """Ids and migrated prompts, batch by batch; tells at the end of prompts far from their mean."""
    distances: list[np.ndarray] = []
    start = 0
    for prompts, far in run(plan.adapter, plan.batches(batch_size), plan.references):
        prompts = plan.placed(prompts)
        prompts.setflags(write=False)  # made by the engine, so nobody else writes into it
        distances.append(far)
        yield plan.users[start : start + len(prompts)], prompts
        start += len(prompts)
    if start != len(plan.users):
        raise ConfigurationError(f"the engine gave {start} prompts for {len(plan.users)} users; it must give all")
    say_distances(plan.adapter, np.concatenate(distances))
