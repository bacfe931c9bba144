"""Carrying out a migration, in memory or from files to files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.columns import dataset_of_arrays
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import ENGINES
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.step import Engine


def chosen_engine(batch_size: int, engine: str, options: Mapping[str, Any]) -> Engine:
    """The engine of that name with its options set.

    Raises:
        ConfigurationError: the batch size is below 1, or there is no such engine or option.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    return ENGINES.bound(engine, options)


def in_memory(plan: MigrationPlan, batch_size: int, engine: Engine) -> PromptBank:
    """The target bank of a plan, in the plan's order of users."""
    provenance = plan.provenance()
    prompts = np.empty((len(plan.users), provenance.prompt_length, provenance.model.hidden_size), np.float32)
    end = 0
    for _, part in plan.migrated(batch_size, engine):
        prompts[end : (end := end + len(part))] = part
    prompts.setflags(write=False)  # so that the bank takes them without a copy
    if provenance.statistics is None:
        provenance = replace(provenance, statistics=BankStatistics.of_prompts(prompts))
    return PromptBank(dataset_of_arrays(plan.users.names, prompts), provenance, plan.head())


def into_files(
    save_directory: str | os.PathLike[str],
    plan: MigrationPlan,
    batch_size: int,
    engine: Engine,
    max_shard_size: int | str,
) -> PromptBank:
    """The target bank of a plan, written batch by batch and opened in its files."""
    plan = plan.in_order_of_users()
    batches = plan.migrated(batch_size, engine)
    return PromptBank.from_batches(
        save_directory, batches, plan.provenance(), plan.head(), max_shard_size=max_shard_size
    )
