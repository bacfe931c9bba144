"""One adapter of a migration: what it makes of the banks before it, and the prompts that go through it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import BankStatistics, Provenance
from puma_hub.bank.lineage import joined_histories
from puma_hub.bank.provenance import MEAN_ANSWERS
from puma_hub.bank.reference import Reference
from puma_hub.data.held_out import TrainedRows
from puma_hub.errors import ConfigurationError
from puma_hub.migration.other_base import moved
from puma_hub.tasks import RatingHead

logger = logging.getLogger(__name__)

Engine: TypeAlias = Callable[
    [PumaAdapter, Iterable[np.ndarray], Sequence[Reference]], Iterator[tuple[np.ndarray, np.ndarray]]
]


@dataclass(frozen=True)
class Step:
    """An adapter, and what is known of the banks it takes.

    Args:
        before: the provenance of each bank, in the adapter's source order.
        references: what the prompts of each bank are counted from.
        users_left_out: how many users are missing from at least one bank and do not come along.
        details: more facts for the provenance of what it makes.
        base: where the migrated prompts stand, if not at the adapter's own base.
    """

    adapter: PumaAdapter
    before: tuple[Provenance, ...]
    references: list[Reference]
    users_left_out: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    base: Reference | None = None

    def through(self, batches: Iterable[np.ndarray], engine: Engine, users: int) -> Iterator[np.ndarray]:
        """Target prompts of source prompts, batch by batch; the log tells at the end of prompts far from their mean.

        Raises:
            ConfigurationError: the engine does not give prompts of all ``users``.
        """
        distances: list[np.ndarray] = []
        done = 0
        for prompts, far in engine(self.adapter, batches, self.references):
            if self.base is not None:
                prompts = moved(self.adapter, prompts, self.base)
            prompts.setflags(write=False)  # made by the engine, so nobody else writes into it
            distances.append(far)
            done += len(prompts)
            yield prompts
        if done != users:
            raise ConfigurationError(f"the engine gave {done} prompts for {users} users; it must give all")
        say_distances(self.adapter, np.concatenate(distances))

    def head(self) -> RatingHead | None:
        """A copy of the adapter's rating head, which goes with migrated prompts whatever head came in."""
        if self.adapter.head is None:
            return None
        return copy.deepcopy(self.adapter.head).float().cpu().eval().requires_grad_(False)

    def provenance(self) -> Provenance:
        """That of the target bank; without statistics if the adapter knows none of such prompts."""
        config, trained = self.adapter.config, self.adapter.config.trained_on
        details: dict[str, Any] = {
            "adapter": {"sources": [spec.model_id for spec in config.sources], "architecture": config.architecture},
            "users_left_out": self.users_left_out,
            **self.details,
        }
        if config.answer_texts is not None:
            details["answer_texts"] = config.answer_texts
        if trained is not None:
            ours = [bank.base_id for bank in trained.sources]
            details["own_source_bank"] = ours == [
                bank.statistics.base_id if bank.statistics else None for bank in self.before
            ]
            if trained.mean_answers is not None and self.base is None:
                details[MEAN_ANSWERS] = list(trained.mean_answers)
        if self.adapter.head is not None:
            details["head"] = "the adapter's"
        history, parents = joined_histories([bank.lineage for bank in self.before])
        return Provenance(
            config.require_pair(),
            config.prompt_length,
            template=config.template,
            task=config.scored_task,
            made_by="migrated",
            details=details,
            history=history,
            parents=parents,
            statistics=self._statistics(),
            trained_rows=TrainedRows.of_all(bank.trained_rows for bank in self.before),
            owners=self.before[0].owners,
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
