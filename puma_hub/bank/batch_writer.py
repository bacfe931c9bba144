"""Writing a bank batch by batch, so that its prompts are never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from puma_hub.bank.arrays import as_float32
from puma_hub.bank.columns import dataset_of_arrays
from puma_hub.bank.description import BankDescription, shard_names
from puma_hub.bank.folder import LAYOUT, read_rows, write_head
from puma_hub.bank.index import UserIndex
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.rounding import Rounding
from puma_hub.bank.shards import ShardWriter, row_bytes, rows_in
from puma_hub.bank.statistics import BankStatistics
from puma_hub.bank.stored_rows import TableRows
from puma_hub.bank.users import user_list
from puma_hub.errors import BankError
from puma_hub.storage import new_folder
from puma_hub.tasks import RatingHead


def write_batches(
    folder: Path,
    batches: Iterable[tuple[Iterable[str], Any]],
    provenance: Provenance,
    head: RatingHead | None,
    max_shard_size: int | str,
) -> None:
    """Write a bank into ``folder``. What the folder held is replaced in one step after the last batch.

    Args:
        batches: pairs of ids and prompts ``(n, l, d)`` of any real dtype. Ids must be sorted, within and across
            batches, by their UTF-8 bytes, which is Python's order of strings.
        provenance: if it has no statistics, they are computed, and the files are read twice for them.

    Raises:
        BankError: ids are not sorted, shapes are wrong, values are not finite, or the head belongs to another task.
        ConfigurationError: ``max_shard_size`` is not a size, or too small.
        StorageError: the folder holds something other than a bank, or cannot be written.
    """
    provenance.require_head(head)
    shape, rounding = (provenance.prompt_length, provenance.model.hidden_size), Rounding.of(provenance.details)
    nobody = TableRows(dataset_of_arrays([], np.empty((0, *shape), np.float32)), shape)
    rows_in(max_shard_size, 1)  # checks the size before any work is done
    with new_folder(folder, LAYOUT) as staged:
        writer: ShardWriter | None = None
        users, rows_per_shard = 0, 1
        try:
            for rows in _rising(batches, shape):
                if writer is None:
                    one = row_bytes(rows)
                    rows_per_shard = rows_in(max_shard_size, one)
                    writer = ShardWriter(staged, rows.features.arrow_schema, rows_per_shard, one, rounding)
                writer.write(rows.table)
                users += len(rows)
            writer = writer or ShardWriter(staged, nobody.features.arrow_schema, rows_per_shard, 1)
            writer.finish(shard_names)
        finally:
            if writer is not None:
                writer.close()
        describe(staged, provenance, head, users, rows_per_shard)


def describe(
    folder: Path,
    provenance: Provenance,
    head: RatingHead | None,
    users: int,
    rows_per_shard: int,
    migration: str | None = None,
) -> None:
    """Write what is left of a bank whose rows are in ``folder``: the head, and the description.

    Args:
        provenance: if it has no statistics, they are computed, and the files are read twice for them.
        migration: hash of what a migration made the rows from.
    """
    write_head(folder, head)
    description = BankDescription(provenance, users, rows_per_shard, head is not None, migration=migration)
    if provenance.statistics is None:
        known = replace(provenance, statistics=_statistics(folder, description, str(folder)))
        description = replace(description, provenance=known)
    description.write(folder)


def _statistics(folder: Path, description: BankDescription, where: str) -> BankStatistics | None:
    stored = read_rows(folder, description, where)
    return BankStatistics.of_batches(lambda: (prompts for _, prompts in stored))


def _rising(batches: Iterable[tuple[Iterable[str], Any]], shape: tuple[int, int]) -> Iterator[TableRows]:
    """The batches as rows of a bank. Checks that ids are sorted within and across batches."""
    last, before = "", 0
    for user_ids, values in batches:
        ids, prompts = user_list(user_ids), as_float32(values)
        if prompts.shape != (len(ids), *shape):
            raise BankError(
                f"a batch of {len(ids)} user ids needs prompts of shape {(len(ids), *shape)}, got {prompts.shape}"
            )
        if not ids:
            continue
        rows = TableRows(dataset_of_arrays(ids, prompts), shape)
        if not UserIndex(rows.ids()).is_rising or ids[0] <= last:
            raise BankError(
                f"the user ids of the batch that begins with row {before} are not sorted, or do not follow those "
                "before; give all users in the order of their ids, each once (PromptBank.save_pretrained sorts)"
            )
        last, before = ids[-1], before + len(ids)
        yield rows
