"""Migrating a bank from one place to another, such as from bucket to bucket, file by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import tqdm

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.description import DESCRIPTION_FILE, BankDescription, shard_names
from puma_hub.bank.folder import write_head
from puma_hub.bank.rounding import WHOLE, Rounding, require_dtype
from puma_hub.bank.shards import ShardRows
from puma_hub.errors import CheckpointError, ConfigurationError, PumaHubError, StorageError
from puma_hub.migration.file_writer import FileWriter
from puma_hub.migration.identity import hash_of
from puma_hub.migration.plan import LOOKED_AT, MigrationPlan
from puma_hub.migration.run import ChosenEngine
from puma_hub.storage import scratch_folder
from puma_hub.storage.places import Place

_STATE = "unfinished-migration"
"""A file in the target that names the migration whose files are there, until all of them are."""


@dataclass(frozen=True)
class RemoteWriter:
    """Writes the files of a migration between places by their numbers. It can be pickled.

    Each file is read into a temporary folder of this machine, migrated there, and put in the target under its name when
    it is whole. One that is there is not written again.
    """

    source: Place
    target: Place
    description: BankDescription
    adapter: PumaAdapter
    mean: Any
    engine: ChosenEngine
    rounding: Rounding | None = None

    def write(self, number: int, advanced: Callable[[int], object]) -> None:
        name = shard_names(len(self.description.shards))[number]
        if self.target.has(name):
            advanced(self.users_in(number))
            return
        with scratch_folder() as folder:
            plan = self.plan(number, folder)
            writer = FileWriter(plan, self.engine, None, len(plan.users), ("migrated.parquet",), folder, self.one)
            writer.write(0, advanced)
            self.target.put(folder / "migrated.parquet", name)

    def plan(self, number: int, folder: Path) -> MigrationPlan:
        """The migration of one file, which is fetched into ``folder``.

        Raises:
            CheckpointError: it has another number of users than the description says.
        """
        name, facts = self.description.shards[number], self.description.provenance
        self.source.get(name, folder / "source.parquet")
        rows = ShardRows([folder / "source.parquet"], (facts.prompt_length, facts.model.hidden_size), str(self.source))
        if len(rows) != self.users_in(number):
            raise CheckpointError(
                f"{name} of {self.source} should hold {self.users_in(number)} users and holds {len(rows)}; make the "
                "bank again"
            )
        plan = MigrationPlan.of(self.adapter, PromptBank.of_rows(rows, facts), self.mean)
        return replace(plan, rounding=self.rounding).in_order_of_users()

    def fitted(self, dtype: str) -> Rounding | None:
        """The rounding for the bank, by the prompts of its first users."""
        prompts: list[np.ndarray] = []
        number, left = 0, LOOKED_AT if dtype != WHOLE else 0
        while left > 0 and number < len(self.description.shards):
            with scratch_folder() as folder:
                some = self.plan(number, folder).take(slice(left))
                prompts += some.migrated(self.engine.batch_size, self.engine.run)
            number, left = number + 1, left - len(some.users)
        return Rounding.fitted(dtype, np.concatenate(prompts)) if prompts else None

    def users_in(self, number: int) -> int:
        per_file = self.description.rows_per_shard
        return min(per_file, self.description.users - number * per_file)

    @cached_property
    def one(self) -> int:
        target = self.adapter.config.require_pair()
        return 24 + 4 * self.adapter.config.prompt_length * target.hidden_size


def migrate_between(
    target: str,
    adapter: PumaAdapter,
    source: str,
    *,
    batch_size: int = 4096,
    mean: Any = None,
    engine: str = "torch",
    dtype: str = WHOLE,
    **options: Any,
) -> int:
    """Migrate a bank from one place to another: folders, or addresses of fsspec such as ``s3://bucket/bank``.

    Each file of the source becomes one of the target, which has the bytes that :func:`puma_hub.migration.migrate_to`
    would write. No more than one file for each worker is on this machine at a time. ``bank.json`` is written last:
    before that the target is no bank. If the process is killed, the same call goes on after the last whole file.

    Args:
        batch_size, mean, engine, options, dtype: see :func:`puma_hub.migration.migrate_to`.

    Returns:
        The number of users.

    Raises:
        StorageError: the source holds no bank, the target holds something else, or a place cannot be read or written.
        ConfigurationError: the adapter has several sources, or was not trained and knows no mean of what it makes.
        MismatchError, BankError: see :func:`puma_hub.migrate`.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    before, after = Place.of(source), Place.of(target)
    if len(adapter.config.sources) != 1:
        raise ConfigurationError("an adapter of several sources joins banks by their users; give their folders")
    with scratch_folder() as folder:
        writer = RemoteWriter(before, after, _described(before, folder), adapter, mean, chosen)
        require_dtype(dtype)
        writer = replace(writer, rounding=writer.fitted(dtype))
        plan = writer.plan(0, folder)
        provenance, names = plan.provenance(), writer.description.shards
        if provenance.statistics is None:
            raise ConfigurationError(
                "this adapter was not trained and knows no mean of what it makes; copy the bank to a folder, and "
                "migrate it there"
            )
        stamps = [before.stamp(name) for name in names]
        identity = hash_of(plan, stamps, engine, options, writer.description.rows_per_shard)
        _claim(after, identity)
        try:
            with tqdm(desc="migrating", unit="prompt", total=writer.description.users) as bar:
                chosen.in_files(writer, range(len(names)), bar.update)
        except PumaHubError:
            if after.names() == [_STATE]:  # nothing to go on from, so nothing to keep others away
                after.remove(_STATE)
            raise
        head = plan.head()
        write_head(folder, head)
        made = BankDescription(
            provenance, writer.description.users, writer.description.rows_per_shard, head is not None
        )
        for name in made.files[len(names) :]:
            after.put(folder / name, name)
        made.write(folder)
        after.put(folder / DESCRIPTION_FILE, DESCRIPTION_FILE)
        after.remove(_STATE)
        after.remove_unfinished()
    return writer.description.users


def _described(place: Place, folder: Path) -> BankDescription:
    if not place.has(DESCRIPTION_FILE):
        raise StorageError(f"no prompt bank at {place}: {DESCRIPTION_FILE} missing; give the folder of a bank")
    place.get(DESCRIPTION_FILE, folder / DESCRIPTION_FILE)
    return BankDescription.read(folder / DESCRIPTION_FILE, str(place))


def _claim(target: Place, identity: str) -> None:
    """Mark the target as that of this migration, unless it is already.

    Raises:
        StorageError: it holds anything else.
    """
    if target.has(_STATE):
        if target.read(_STATE) == identity.encode():
            return
        raise StorageError(f"{target} holds files of another migration that was not finished; delete them first")
    if target.names():
        raise StorageError(f"{target} is not empty, and a bank there is not replaced; delete it, or give another place")
    target.write(_STATE, identity.encode())
