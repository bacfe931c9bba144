"""What an experiment is: the parts it needs of each seed, and the figures it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from puma_hub.reproduce.config import ReproduceConfig
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.summary import Summary

Figures = dict[str, dict[str, float | None]]
"""A table: figures by row and column."""


class Experiment(ABC):
    """One table or figure; a subclass is registered in :data:`puma_hub.extensions.EXPERIMENTS`.

    Args:
        config: what it runs on.
    """

    title: ClassVar[str]
    """What the table shows, as its heading."""
    paper_source: ClassVar[str | None] = None
    """Where in the paper the figures beside ours stand."""
    reference: ClassVar[str | None] = None
    """A row: the others' differences from it are told, seed by seed."""

    def __init__(self, config: ReproduceConfig) -> None:
        self.config = config
        self.metric = config.compared_metric
        self.metrics = [metric.name for metric in config.scored_task.metrics]

    @abstractmethod
    def parts(self, plan: Plan) -> dict[str, Part]:
        """The parts it needs of a seed, by names of its own."""

    @abstractmethod
    def figures(self, found: Mapping[str, Any]) -> Figures:
        """The figures of a seed, from the facts of its parts."""

    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's figures, by our rows and columns, as far as there are some."""
        return {}

    def labels(self) -> dict[str, str]:
        """Rows and columns in words, where they are not so named."""
        return {}

    def notes(self, summary: Summary) -> list[str]:
        """What a reader of the table has to know, in plain words."""
        return []

    @abstractmethod
    def draw(self, figure: Any, summary: Summary) -> None:
        """Draw the summary in an empty matplotlib figure."""
