"""Figure 4: gain over retraining, from each LLM to each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Scores
from puma_hub.reproduce.summary import Summary

_TRAINED = "trained"


class Figure4(Experiment):
    """The retrained error / the migrated error of every ordered pair of models; above 1 migrating is better."""

    title = "Error of retraining / error of migrating, by pair"
    paper_source = "pair heat map, Amazon, 6,000 users"

    def parts(self, plan: Plan) -> dict[str, Part]:
        banks = {model: plan.bank(model) for model in self.config.models}
        found: dict[str, Part] = {f"{_TRAINED} {name}": Scores(plan.setup, bank) for name, bank in banks.items()}
        for source, target in permutations(banks, 2):
            migrated = plan.migrated(plan.adapter(banks[source], target), banks[source])
            found[f"{source} -> {target}"] = Scores(plan.setup, migrated)
        return found

    def figures(self, found: Mapping[str, Any]) -> Figures:
        rows: Figures = {source: {} for source in self.config.models}
        for source in rows:
            for target in self.config.models:
                rows[source][target] = None if source == target else self._gain(found, source, target)
        return rows

    def _gain(self, found: Mapping[str, Any], source: str, target: str) -> float | None:
        again = found[f"{_TRAINED} {target}"]["metrics"][self.metric]
        migrated = found[f"{source} -> {target}"]["metrics"][self.metric]
        return again / migrated if again is not None and migrated else None

    def paper(self) -> dict[str, dict[str, float]]:
        named = {model: paper.family(model) for model in self.config.models}
        return {
            source: {
                target: paper.FIGURE4[one][other]
                for target, other in named.items()
                if one is not None and other is not None and other in paper.FIGURE4[one]
            }
            for source, one in named.items()
        }

    def labels(self) -> dict[str, str]:
        return {model: self.config.short(model) for model in self.config.models}

    def notes(self, summary: Summary) -> list[str]:
        return [
            f"Sources are in rows, targets in columns. The figure is {self.metric.upper()} retrained / migrated, of "
            "all users. The paper's are of the family that a model's name tells; SmolLM2 counts as Llama, whose "
            "architecture it has."
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        charts.heat_map(figure.subplots(), summary, self.labels(), ("source", "target"))
