"""Migrating only users who are new or whose prompts have changed since an earlier migration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from puma_hub.bank import PromptBank
from puma_hub.bank.columns import table_of_arrays
from puma_hub.bank.reference import Reference
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.migration.means import references_of
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.step import Engine

_AT_ONCE = 4096
_CHECKED = 64  # users
_WHOLE = "leave since out, which migrates everybody"


@dataclass(frozen=True)
class Changes:
    """Where the migrated prompts of a plan's users come from.

    Args:
        since: the source bank as it was at the earlier migration.
        target: what was made of it.
        rows: of each of the plan's users, in their order, the row in ``target``, int64 ``(N,)``; -1 where the user is
            new, or the prompt has changed.
    """

    since: PromptBank
    target: PromptBank
    rows: np.ndarray

    @classmethod
    def of(cls, plan: MigrationPlan, since: PromptBank, target: PromptBank, engine: Engine) -> Changes:
        """Compare the plan's bank with ``since``, prompt by prompt.

        Raises:
            ConfigurationError: the plan has several sources or adapters.
            MismatchError: the banks are of different trainings, or ``target`` is not what the plan's adapter makes of
                ``since``.
        """
        if len(plan.banks) != 1 or len(plan.steps) != 1:
            raise ConfigurationError(f"since= is for one adapter of one source; {_WHOLE}")
        _require_same_reference(plan, since)
        bank, ids = plan.banks[0], plan.users.ids
        plan.provenance().model.require_same(target.model, "the earlier target bank")
        before, there = since.index.rows_of(ids), target.index.rows_of(ids)
        rows = np.where(before >= 0, there, -1)
        for start in range(0, len(rows), _AT_ONCE):
            known = start + np.flatnonzero(rows[start : start + _AT_ONCE] >= 0)
            one, other = bank.prompts_at(plan.users.rows[0][known]), since.prompts_at(before[known])
            rows[known[(one != other).any(axis=(1, 2))]] = -1
        found = cls(since, target, rows)
        found._require_made_so(plan, engine)
        return found

    @property
    def kept(self) -> int:
        """How many users keep their migrated prompts."""
        return int((self.rows >= 0).sum())

    def part(self, these: slice) -> Changes:
        """The same for some of the plan's users."""
        return replace(self, rows=self.rows[these])

    def tables(self, plan: MigrationPlan, batch_size: int, engine: Engine) -> Iterator[pa.Table]:
        """As :meth:`MigrationPlan.tables`, where ``plan`` has the same users."""
        fresh = plan.take(np.flatnonzero(self.rows < 0))
        migrated = _one_by_one(fresh.stored(batch_size, engine) if len(fresh.users) else iter(()))
        length, size = self.target.shape
        for start in range(0, len(self.rows), batch_size):
            these = slice(start, start + batch_size)
            rows = self.rows[these]
            prompts = np.empty((len(rows), length, size), np.float32)
            prompts[rows >= 0] = self.target.prompts_at(rows[rows >= 0])
            for place in np.flatnonzero(rows < 0):
                prompts[place] = next(migrated)
            prompts.setflags(write=False)
            yield table_of_arrays(plan.users.ids[these], prompts, plan.further_columns(these))

    def _require_made_so(self, plan: MigrationPlan, engine: Engine) -> None:
        """Migrate some kept users again, and compare. Other machines may have rounded otherwise."""
        some = np.flatnonzero(self.rows >= 0)[:_CHECKED]
        if not len(some):
            return
        again = np.concatenate([*plan.take(some).stored(_CHECKED, engine)])
        there = self.target.prompts_at(self.rows[some])
        largest = max(float(np.abs(again).max()), 1e-30)
        tolerance = 1e-4 * largest + (plan.rounding.finest(largest) if plan.rounding else 0.0)
        if again.shape != there.shape or np.abs(again - there).max() > tolerance:
            raise MismatchError(
                "the earlier target bank is not what this adapter makes of the earlier source bank: prompts differ; "
                f"{_WHOLE}"
            )


def _one_by_one(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield from batch


def _require_same_reference(plan: MigrationPlan, since: PromptBank) -> None:
    (step,) = plan.steps
    step.adapter.config.sources[0].require_same(since.model, "the earlier source bank")
    (ours,), (theirs,) = step.references, references_of(step.adapter, (since.provenance,))
    if since.shape != plan.banks[0].shape or not _equal(ours, theirs):
        raise MismatchError(
            "the bank and the earlier source bank are counted from different means, so every user's migrated prompt "
            f"changes; {_WHOLE}"
        )


def _equal(one: Reference, other: Reference) -> bool:
    if (one.sensitivity is None) is not (other.sensitivity is None):
        return False
    same = np.array_equal(one.mean, other.mean)
    return same and (one.sensitivity is None or np.array_equal(one.sensitivity, other.sensitivity))  # type: ignore[arg-type]
