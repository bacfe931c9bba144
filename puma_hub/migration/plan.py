"""What a migration will make: who comes along, through which adapters, and what stands in where a bank lacks a user."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import BankStatistics, PromptBank, Provenance
from puma_hub.bank.columns import table_of_arrays
from puma_hub.bank.join import JoinedUsers, join_users
from puma_hub.bank.reference import Reference
from puma_hub.bank.rounding import ROUNDED, WHOLE, Rounding, require_dtype
from puma_hub.errors import ConfigurationError
from puma_hub.migration.checks import check_banks
from puma_hub.migration.means import references_of
from puma_hub.migration.missing import LEAVE_OUT, StandIn, centers_of, stand_in_for
from puma_hub.migration.step import Engine, Step
from puma_hub.tasks import RatingHead

logger = logging.getLogger(__name__)

LOOKED_AT = 4096
"""Users by whose prompts a rounding is chosen."""


@dataclass(frozen=True)
class MigrationPlan:
    """A migration that was checked and not begun.

    Args:
        users: who comes along, and where they stand in each bank.
        steps: the adapters in order; the first takes ``banks``, each further one what the one before it makes.
        stand_in: fills in the prompts of users that a bank lacks; None where nobody is missing.
        rounding: of the prompts in the target's files; None where they are kept as they are.
    """

    banks: tuple[PromptBank, ...]
    users: JoinedUsers
    steps: tuple[Step, ...]
    stand_in: StandIn | None = None
    rounding: Rounding | None = None

    @classmethod
    def of(
        cls,
        adapter: PumaAdapter,
        bank: PromptBank | Sequence[PromptBank],
        mean: Any = None,
        missing: str = LEAVE_OUT,
        base: Reference | None = None,
    ) -> MigrationPlan:
        """The plan for a bank, or for one bank for each source; raises as :func:`puma_hub.migrate` does.

        No prompt is read, but for a stand-in that is learnt.
        """
        banks = (bank,) if isinstance(bank, PromptBank) else tuple(bank)
        check_banks(adapter, banks, base)
        before = tuple(one.provenance for one in banks)
        references = references_of(adapter, before, mean)
        if missing == LEAVE_OUT:
            users = join_users(banks)
            if users.incomplete:
                logger.warning("%d users are missing from at least one bank and were left out", users.incomplete)
            return cls(banks, users, (Step(adapter, before, references, users.incomplete, base=base),))
        stands_in = stand_in_for(missing)
        if len(banks) == 1:
            raise ConfigurationError(
                f"missing={missing!r} is for adapters of several sources; this one has a single source, leave it out"
            )
        users = join_users(banks, everyone=True)
        filled = (~users.present).sum(axis=0).tolist()
        details = {"missing": {"policy": missing, "users_filled": filled}}
        fill = stands_in(banks, users, centers_of(adapter, before, references)) if users.incomplete else None
        if users.incomplete:
            places = ", ".join(f"{count} from bank {number}" for number, count in enumerate(filled, 1) if count)
            logger.warning("missing users, of %d: %s; stand-in: %s", len(users), places, missing)
        return cls(banks, users, (Step(adapter, before, references, details=details, base=base),), fill)

    def followed_by(self, adapter: PumaAdapter, batch_size: int, engine: Engine) -> MigrationPlan:
        """The plan with one more adapter at its end.

        Where the last adapter was not trained and knows no mean of what it makes, it is computed: all prompts go
        through the adapters so far, twice.
        """
        made = self.provenance()
        if made.statistics is None:
            found = BankStatistics.of_batches(lambda: self.migrated(batch_size, engine))
            made = replace(made, statistics=found)
        step = Step(adapter, (made,), references_of(adapter, (made,)))
        return replace(self, steps=(*self.steps, step))

    def kept_as(self, dtype: str, batch_size: int, engine: Engine) -> MigrationPlan:
        """The plan with prompts rounded to ``dtype`` in the target's files. The first users are migrated for it.

        Raises:
            ConfigurationError: there is no such dtype.
        """
        require_dtype(dtype)
        if dtype == WHOLE:
            return replace(self, rounding=None)
        some = self.take(slice(LOOKED_AT)).migrated(batch_size, engine)
        return replace(self, rounding=Rounding.fitted(dtype, np.concatenate([*some])))

    def in_order_of_users(self) -> MigrationPlan:
        """The same, in the order in which a saved bank keeps its users."""
        return replace(self, users=self.users.in_order_of_ids())

    def take(self, these: slice | np.ndarray) -> MigrationPlan:
        """The same for some of the users, in that order."""
        return replace(self, users=self.users.take(these))

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Source prompts float32 ``(n, l, sum of sizes)``, of all users in order; one batch is read at a time."""
        present = self.users.present
        for start in range(0, len(self.users), batch_size):
            these = slice(start, start + batch_size)
            parts = [_prompts(bank, rows[these]) for bank, rows in zip(self.banks, self.users.rows)]
            if self.stand_in is not None and not present[these].all():
                self.stand_in(parts, present[these])
            yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def migrated(self, batch_size: int, engine: Engine) -> Iterator[np.ndarray]:
        """Target prompts float32 ``(n, l, d)``, of all users in order, batch by batch through all adapters.

        Raises:
            ConfigurationError: the engine does not give prompts of all users.
        """
        stream = self.batches(batch_size)
        for step in self.steps:
            stream = step.through(stream, engine, len(self.users))
        yield from stream

    def stored(self, batch_size: int, engine: Engine) -> Iterator[np.ndarray]:
        """The same as they are stored, which may be rounded."""
        for prompts in self.migrated(batch_size, engine):
            if self.rounding is not None:
                prompts = self.rounding.rounded(prompts)
                prompts.setflags(write=False)
            yield prompts

    def tables(self, batch_size: int, engine: Engine) -> Iterator[pa.Table]:
        """The same as rows of a bank, with the further columns of the source bank where there is one source."""
        start = 0
        for prompts in self.stored(batch_size, engine):
            these = slice(start, start + len(prompts))
            start += len(prompts)
            yield table_of_arrays(self.users.ids[these], prompts, self.further_columns(these))

    def further_columns(self, these: slice) -> pa.Table | None:
        """What one source bank has besides ids and prompts, of some users; None for several sources."""
        return self.banks[0].stored.further_columns(self.users.rows[0][these]) if len(self.banks) == 1 else None

    def head(self) -> RatingHead | None:
        """The rating head of the target bank."""
        return self.steps[-1].head()

    def provenance(self) -> Provenance:
        """That of the target bank, whose history lists every bank on the way."""
        found = self.steps[-1].provenance()
        if self.rounding is None:
            return found
        return replace(found, details={**found.details, ROUNDED: self.rounding.to_dict()})


def _prompts(bank: PromptBank, rows: np.ndarray) -> np.ndarray:
    """The prompts float32 ``(n, l, d)`` of some rows, 0 for row -1."""
    known = rows >= 0
    if known.all():
        return bank.prompts_at(rows)
    prompts = np.zeros((len(rows), *bank.shape), np.float32)
    prompts[known] = bank.prompts_at(rows[known])
    return prompts
