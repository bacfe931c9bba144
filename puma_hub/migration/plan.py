"""What a migration will make, before a prompt is read: who comes along, and the provenance and head of the result."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import BankStatistics, PromptBank, Provenance
from puma_hub.bank.join import join_rows
from puma_hub.bank.reference import Reference
from puma_hub.data.held_out import TrainedRows
from puma_hub.errors import MismatchError
from puma_hub.migration.means import references_of
from puma_hub.migration.other_base import check_owners, moved
from puma_hub.tasks import RatingHead

logger = logging.getLogger(__name__)


def check_banks(adapter: PumaAdapter, banks: Sequence[PromptBank], base: Reference | None = None) -> None:
    """Raise MismatchError unless there is one fitting bank for each source of ``adapter``, in its order."""
    sources = adapter.config.sources
    if len(banks) != len(sources):
        names = ", ".join(spec.model_id for spec in sources)
        raise MismatchError(f"this adapter takes {len(sources)} bank(s), for {names}; got {len(banks)}")
    check_owners(adapter, banks, base)
    for number, (spec, bank) in enumerate(zip(sources, banks), 1):
        spec.require_same(bank.model, f"bank {number} of {len(banks)}")
        if bank.shape[0] != adapter.config.prompt_length:
            raise MismatchError(
                f"this adapter takes prompts of length {adapter.config.prompt_length}, bank {number} has length "
                f"{bank.shape[0]}"
            )


@dataclass(frozen=True)
class MigrationPlan:
    """A migration of ``users`` that was checked and not begun.

    Args:
        rows: where the users stand in each bank, int64 ``(N,)``.
        references: what the prompts of each bank are counted from.
        missing: how many users are missing from at least one bank, and left out.
        base: where the migrated prompts stand, if not at the adapter's own base.
    """

    adapter: PumaAdapter
    banks: tuple[PromptBank, ...]
    users: list[str]
    rows: list[np.ndarray]
    references: list[Reference]
    missing: int
    base: Reference | None = None

    @classmethod
    def of(
        cls,
        adapter: PumaAdapter,
        bank: PromptBank | Sequence[PromptBank],
        mean: Any = None,
        base: Reference | None = None,
    ) -> MigrationPlan:
        """The plan for a bank, or for one bank for each source; raises as :func:`puma_hub.migrate` does."""
        banks = (bank,) if isinstance(bank, PromptBank) else tuple(bank)
        check_banks(adapter, banks, base)
        references = references_of(adapter, banks, mean)
        users, rows, missing = join_rows(banks)
        if missing:
            logger.warning("%d users are missing from at least one bank and were left out", missing)
        return cls(adapter, banks, users, rows, references, missing, base)

    def in_order_of_users(self) -> MigrationPlan:
        """The same, in the order in which a saved bank keeps its users."""
        order = pc.array_sort_indices(pa.array(self.users, pa.large_string())).to_numpy()
        users = [self.users[number] for number in order]
        return replace(self, users=users, rows=[rows[order] for rows in self.rows])

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Source prompts float32 ``(n, l, sum of sizes)``, of all users in order; one batch is read at a time."""
        for start in range(0, len(self.users), batch_size):
            parts = [bank.prompts_at(rows[start : start + batch_size]) for bank, rows in zip(self.banks, self.rows)]
            yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def placed(self, prompts: np.ndarray) -> np.ndarray:
        """Migrated ``prompts (n, l, d)`` around the base they go to."""
        return prompts if self.base is None else moved(self.adapter, prompts, self.base)

    def head(self) -> RatingHead | None:
        """A copy of the adapter's rating head, which goes with migrated prompts whatever head came in."""
        if self.adapter.head is None:
            return None
        return copy.deepcopy(self.adapter.head).float().cpu().eval().requires_grad_(False)

    def provenance(self) -> Provenance:
        """That of the target bank; without statistics if the adapter was not trained, since it knows no target bank."""
        config, trained = self.adapter.config, self.adapter.config.trained_on
        history = [step for bank in self.banks for step in (*bank.provenance.history, bank.provenance.as_step())]
        details: dict[str, Any] = {
            "adapter": {"sources": [spec.model_id for spec in config.sources], "architecture": config.architecture},
            "users_left_out": self.missing,
        }
        if config.answer_texts is not None:
            details["answer_texts"] = config.answer_texts
        if trained is not None:
            ours = [bank.base_id for bank in trained.sources]
            details["own_source_bank"] = ours == [
                bank.statistics.base_id if bank.statistics else None for bank in self.banks
            ]
        if self.adapter.head is not None:
            details["head"] = "the adapter's"
        return Provenance(
            config.require_pair(),
            config.prompt_length,
            template=config.template,
            task=config.scored_task,
            made_by="migrated",
            details=details,
            history=tuple(history),
            statistics=self._statistics(),
            trained_rows=TrainedRows.of_all(bank.provenance.trained_rows for bank in self.banks),
            owners=self.banks[0].provenance.owners,
        )

    def _statistics(self) -> BankStatistics | None:
        """Of the adapter's target bank, whose base these prompts have: a few users of another bank move no mean."""
        trained = self.adapter.config.trained_on
        if trained is None or self.base is not None:
            return None
        mean, sensitivity = (
            tensor.detach().cpu().float().numpy()
            for tensor in (self.adapter.output_mean, self.adapter.output_sensitivity)
        )
        return BankStatistics(
            mean, trained.target_spread, trained.target_users, sensitivity=sensitivity if sensitivity.any() else None
        )


def say_distances(adapter: PumaAdapter, distances: np.ndarray) -> None:
    """Tell in the log of prompts that are farther from their mean than any the adapter was trained on."""
    trained = adapter.config.trained_on
    if trained is None:
        return
    far = int((distances > trained.farthest * (1 + 1e-4)).sum())
    if far:
        logger.warning(
            "%d of %d prompts lie farther from their mean (up to %.2f spreads) than any of the adapter's source bank "
            "(%.2f); see how these users do before you rely on them",
            far,
            len(distances),
            float(distances.max()),
            trained.farthest,
        )
