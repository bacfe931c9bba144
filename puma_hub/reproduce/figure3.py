"""Figure 3: the error by budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.reproduce import charts
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Scores
from puma_hub.reproduce.summary import Summary

_RETRAINED = "retrained"


class Figure3(Experiment):
    """Migrated prompts by the share of users the adapter trains on, beside retraining."""

    title = "Error by the share of users the adapter trains on"
    paper_source = "Figure 3, which has no numbers"

    def parts(self, plan: Plan) -> dict[str, Part]:
        config, source = self.config, plan.bank(self.config.source)
        found: dict[str, Part] = {_RETRAINED: Scores(plan.setup, plan.bank(config.target))}
        for share in config.budgets:
            for strategy in config.budget_strategies:
                adapter = plan.adapter(source, config.target, plan.selection(source, strategy, share))
                found[f"{_row(share)} {strategy}"] = Scores(plan.setup, plan.migrated(adapter, source))
        return found

    def figures(self, found: Mapping[str, Any]) -> Figures:
        again = found[_RETRAINED]["metrics"][self.metric]
        rows: Figures = {}
        for share in self.config.budgets:
            name = _row(share)
            by_strategy = {s: found[f"{name} {s}"]["metrics"][self.metric] for s in self.config.budget_strategies}
            rows[name] = {**by_strategy, _RETRAINED: again}
        return rows

    def notes(self, summary: Summary) -> list[str]:
        return [
            f"Figures are {self.metric.upper()} of all users. Retraining has no budget: it is the same in each row."
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        places = {_row(share): 100 * share for share in self.config.budgets}
        what = "% of the users", self.metric.upper()
        charts.curves(figure.subplots(), summary, places, [*self.config.budget_strategies, _RETRAINED], what)


def _row(share: float) -> str:
    return f"{share:.0%}"
