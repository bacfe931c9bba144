"""Table 4: the strategies of selection at one budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.extensions import STRATEGIES
from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Scores
from puma_hub.reproduce.summary import Summary

_RANDOM, _TIMES = "random", 3
RANDOM_MORE = f"{_RANDOM}, {_TIMES} times the budget"


class Table4(Experiment):
    """Every registered strategy, and random users of three times the budget."""

    title = "Strategies of selection"
    paper_source = "Table 4"
    reference = _RANDOM

    def parts(self, plan: Plan) -> dict[str, Part]:
        config = self.config
        source = plan.bank(config.source)
        chosen = {name: plan.selection(source, name) for name in STRATEGIES}
        chosen[RANDOM_MORE] = plan.selection(source, _RANDOM, _TIMES * config.share)
        return {
            name: Scores(plan.setup, plan.migrated(plan.adapter(source, config.target, selection), source))
            for name, selection in chosen.items()
        }

    def figures(self, found: Mapping[str, Any]) -> Figures:
        return {name: report["metrics"] for name, report in found.items()}

    def paper(self) -> dict[str, dict[str, float]]:
        return paper.TABLE4[self.config.paper]

    def notes(self, summary: Summary) -> list[str]:
        more = min(1.0, _TIMES * self.config.share)
        return [
            f"Each strategy selects {self.config.share:.0%} of the users, the last row {more:.0%}. Figures are of all "
            "users.",
            "Differences are from random users of the same budget, on the same users and rows of each seed.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        charts.differences(
            figure.subplots(), summary, self.metric, self.reference, {}, highlight=(self.config.strategy,)
        )
