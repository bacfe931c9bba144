"""Cold start: the error of newcomers by the number of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.errors import ConfigurationError
from puma_hub.reproduce import charts
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.newcomers import ColdStart, JoinedBank, RandomStart
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import NEWCOMERS, Scores
from puma_hub.reproduce.summary import Summary

COLD, RANDOM, FULL = "cold start", "random start", "full training"


class ColdStartExperiment(Experiment):
    """First prompts by cold start, by gradient steps from a random start, and by full training."""

    title = "Users whom no bank has seen, by the number of their rows"

    def parts(self, plan: Plan) -> dict[str, Part]:
        setup, cold = plan.setup, self.config.cold_start
        if not setup.data.newcomers:
            raise ConfigurationError("cold start is about newcomers, and data.newcomers is 0; ask for some")
        source, retrained = plan.bank(self.config.source), plan.bank(self.config.target)
        adapter = plan.adapter(source, self.config.target)
        migrated = plan.migrated(adapter, source)
        found: dict[str, Part] = {}
        for rows in cold.rows:
            ways = {
                COLD: ColdStart(setup, adapter, source, rows),
                RANDOM: RandomStart(setup, migrated, rows, cold.gradient_steps, cold.batch_size, cold.learning_rate),
                FULL: JoinedBank(setup, retrained, rows),
            }
            found |= {f"{way} {rows}": Scores(setup, bank, NEWCOMERS) for way, bank in ways.items()}
        return found

    def figures(self, found: Mapping[str, Any]) -> Figures:
        return {
            str(rows): {way: found[f"{way} {rows}"]["metrics"][self.metric] for way in (COLD, RANDOM, FULL)}
            for rows in self.config.cold_start.rows
        }

    def labels(self) -> dict[str, str]:
        return {RANDOM: f"random start, {self.config.cold_start.gradient_steps} gradient steps"}

    def notes(self, summary: Summary) -> list[str]:
        cold = self.config.cold_start
        return [
            f"Figures are {self.metric.upper()} on the held-out rows of {self.config.data.newcomers} newcomers, on the "
            "target LLM. Rows are their most recent training rows; who has fewer gives all.",
            f"A gradient step takes {cold.batch_size} of the newcomers' rows at most, with the adapter's head.",
            "Full training solves for the newcomers' prompts around the base of a bank that all other users were "
            "retrained for; with 0 rows that is its mean prompt.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        places = {str(rows): float(rows) for rows in self.config.cold_start.rows}
        what = "rows of a newcomer", self.metric.upper()
        charts.curves(figure.subplots(), summary, places, [COLD, RANDOM, FULL], what)
