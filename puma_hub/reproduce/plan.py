"""The parts of one seed, as the configuration asks for them. Equal parts are the same part, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from puma_hub.demo.settings import compute_dtype
from puma_hub.reproduce.adapters import Selection, TrainedAdapter
from puma_hub.reproduce.banks import MigratedBank, TrainedBank
from puma_hub.reproduce.config import ReproduceConfig
from puma_hub.reproduce.context import stamp_of
from puma_hub.reproduce.lessons import AggregatedRows, DrawnRows, LabelledRows, Lessons, TaughtRows
from puma_hub.reproduce.part import BankPart, Setup

_APART = 1_000_003  # between the seeds of sources


def setup_of(config: ReproduceConfig, seed: int) -> Setup:
    """What the parts of a seed share."""
    stamps = {name: stamp for name in config.models if (stamp := stamp_of(name))}
    data, task = config.data, config.scored_task.to_dict()
    dtype = str(compute_dtype(config.dtype)).removeprefix("torch.")
    return Setup(data, stamp_of(data.folder or data.name), task, config.template, dtype, stamps, seed)


@dataclass(frozen=True)
class Plan:
    """Makes the parts of one seed."""

    config: ReproduceConfig
    setup: Setup

    @classmethod
    def of(cls, config: ReproduceConfig, seed: int) -> Plan:
        return cls(config, setup_of(config, seed))

    def bank(self, llm: str) -> TrainedBank:
        """The prompts of all users, trained on ``llm``."""
        return TrainedBank(self.setup, llm, self.config.prompts)

    def selection(self, bank: BankPart, strategy: str | None = None, share: float | None = None) -> Selection:
        """The users of an adapter, by default by the configuration's strategy and share."""
        share = self.config.share if share is None else share
        return Selection(self.setup, bank, strategy or self.config.strategy, min(1.0, share))

    def lessons(self, bank: BankPart, selection: Selection, number: int = 0) -> Lessons:
        """What an adapter learns from.

        Args:
            number: of the source, where several are aggregated: each has noise of its own.
        """
        adapter = self.config.adapter
        if adapter.learns_from == "labels":
            return LabelledRows(self.setup, selection, adapter.rows_per_user)
        options = {"seed": self.setup.seed + number * _APART} if number else {}
        if adapter.learns_from == "rows":
            return TaughtRows(self.setup, bank, selection, adapter.rows_per_user, options)
        return DrawnRows(self.setup, bank, selection, adapter.items, adapter.rows, options)

    def adapter(
        self,
        bank: BankPart,
        to: str,
        selection: Selection | None = None,
        lessons: Lessons | None = None,
    ) -> TrainedAdapter:
        """An adapter from the LLM of ``bank`` to the LLM ``to``.

        Args:
            selection: its users, by default those of :meth:`selection`.
            lessons: what it learns from, by default :meth:`lessons` of its users.
        """
        lessons = lessons or self.lessons(bank, selection or self.selection(bank))
        return self.joined((bank,), to, lessons)

    def joined(self, banks: tuple[BankPart, ...], to: str, lessons: Lessons) -> TrainedAdapter:
        """An adapter from several banks."""
        adapter = self.config.adapter
        return TrainedAdapter(self.setup, to, banks, lessons, adapter.architecture, adapter.arguments)

    def aggregated(self, banks: tuple[BankPart, ...], to: str, lessons: Sequence[Lessons]) -> TrainedAdapter:
        """An adapter from several banks, whose ``lessons`` are each source's, or the same labels for all."""
        taught = all(part.taught for part in lessons)
        return self.joined(banks, to, AggregatedRows(self.setup, tuple(lessons)) if taught else lessons[0])

    def migrated(self, adapter: TrainedAdapter, *banks: BankPart) -> MigratedBank:
        """All users of ``banks`` through ``adapter``."""
        return MigratedBank(self.setup, adapter, banks)
