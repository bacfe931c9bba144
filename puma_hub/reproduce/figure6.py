"""Figure 6: two sources aggregated into one target, beside each alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Scores
from puma_hub.reproduce.summary import Summary

AGGREGATED = "aggregated"


class Figure6(Experiment):
    """One adapter from all sources together, and one from each alone, with the same users."""

    title = "Sources aggregated, and each alone"
    paper_source = "aggregation into Phi, Amazon"
    reference = AGGREGATED

    def parts(self, plan: Plan) -> dict[str, Part]:
        sources, target = self.config.aggregated
        banks = tuple(plan.bank(source) for source in sources)
        selection = plan.selection(banks[0])
        lessons = [plan.lessons(bank, selection, number) for number, bank in enumerate(banks)]
        found: dict[str, Part] = {}
        for source, bank, own in zip(sources, banks, lessons):
            migrated = plan.migrated(plan.adapter(bank, target, lessons=own), bank)
            found[_alone(source)] = Scores(plan.setup, migrated)
            found[_trained(source)] = Scores(plan.setup, bank)
        adapter = plan.aggregated(banks, target, lessons)
        found[AGGREGATED] = Scores(plan.setup, plan.migrated(adapter, *banks))
        return found

    def figures(self, found: Mapping[str, Any]) -> Figures:
        return {name: report["metrics"] for name, report in found.items()}

    def paper(self) -> dict[str, dict[str, float]]:
        sources, _ = self.config.aggregated
        named = {_alone(source): paper.family(source) for source in sources} | {AGGREGATED: AGGREGATED}
        if {*named.values()} != {*paper.FIGURE6}:
            return {}
        return {row: paper.FIGURE6[name] for row, name in named.items() if name is not None}

    def labels(self) -> dict[str, str]:
        sources, target = self.config.aggregated
        names, to = {source: self.config.short(source) for source in sources}, self.config.short(target)
        alone = {_alone(source): f"{name} -> {to}" for source, name in names.items()}
        trained = {_trained(source): f"{name}, not migrated" for source, name in names.items()}
        return {**alone, **trained, AGGREGATED: f"{' + '.join(names.values())} -> {to}"}

    def notes(self, summary: Summary) -> list[str]:
        sources, target = self.config.aggregated
        lines = [
            "All adapters learn about the same users and rows; the aggregate's teacher is the mean of the sources.",
            "Differences are from the aggregate, on the same users and rows of each seed.",
        ]
        if target in sources:
            lines.append(
                f"{self.config.short(target)} is the target and one of the sources too: the aggregate adds what the "
                "other source knows."
            )
        return lines

    def draw(self, figure: Any, summary: Summary) -> None:
        charts.differences(figure.subplots(), summary, self.metric, self.reference, self.labels())


def _alone(source: str) -> str:
    return f"{source} alone"


def _trained(source: str) -> str:
    return f"{source} trained"
