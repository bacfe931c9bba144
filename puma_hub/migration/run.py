"""Carrying out a migration in memory, and the choice of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.columns import table_of_arrays, to_dataset
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import ENGINES
from puma_hub.migration.engine import FileEngine, in_torch, is_file_engine, one_by_one
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.step import Engine


@dataclass(frozen=True)
class ChosenEngine:
    """An engine by name, its options, and how many prompts it is given at once.

    Args:
        run: streams prompts through an adapter.
        in_files: has files of a migration written, by their numbers.
    """

    name: str
    run: Engine
    batch_size: int
    options: Mapping[str, Any]
    in_files: FileEngine

    @classmethod
    def of(cls, name: str, batch_size: int, options: Mapping[str, Any]) -> ChosenEngine:
        """The engine of that name with its options set.

        Raises:
            ConfigurationError: the batch size is below 1, or there is no such engine or option.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        found = ENGINES.bound(name, options)
        if is_file_engine(ENGINES.require(name).load()):
            return cls(name, in_torch, batch_size, options, found)
        return cls(name, found, batch_size, options, one_by_one)


def in_memory(plan: MigrationPlan, engine: ChosenEngine) -> PromptBank:
    """The target bank of a plan, in the plan's order of users.

    Raises:
        ConfigurationError: the engine is one of files.
    """
    if engine.in_files is not one_by_one:
        raise ConfigurationError(
            f"the engine {engine.name!r} goes from files to files: give a bank that is saved, and use migrate_to, or "
            "puma-hub migrate"
        )
    provenance = plan.provenance()
    prompts = np.empty((len(plan.users), provenance.prompt_length, provenance.model.hidden_size), np.float32)
    end = 0
    for part in plan.migrated(engine.batch_size, engine.run):
        prompts[end : (end := end + len(part))] = part
    prompts.setflags(write=False)  # so that the bank takes them without a copy
    if provenance.statistics is None:
        provenance = replace(provenance, statistics=BankStatistics.of_prompts(prompts))
    table = table_of_arrays(plan.users.ids, prompts, plan.further_columns(slice(None)))
    return PromptBank(to_dataset(table, datasets.Features.from_arrow_schema(table.schema)), provenance, plan.head())
