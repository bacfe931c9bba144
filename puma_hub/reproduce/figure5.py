"""Figure 5: prompts through one LLM after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import BankPart, Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Scores
from puma_hub.reproduce.summary import Summary

CHAIN, DIRECT, TRAINED = "chain", "direct", "trained"


class Figure5(Experiment):
    """The error after every migration of a chain, beside one direct migration and prompts trained there."""

    title = "Error after each migration of a chain"
    paper_source = "chain, Amazon"

    def parts(self, plan: Plan) -> dict[str, Part]:
        first, *others = self.config.steps
        source = plan.bank(first)
        found: dict[str, Part] = {f"{TRAINED} {first}": Scores(plan.setup, source)}
        bank: BankPart = source
        for number, target in enumerate(others, 1):
            bank = plan.migrated(plan.adapter(bank, target), bank)
            found[f"{CHAIN} {number}"] = Scores(plan.setup, bank)
            found[f"{TRAINED} {target}"] = Scores(plan.setup, plan.bank(target))
            if target != first:
                direct = plan.migrated(plan.adapter(source, target), source)
                found[f"{DIRECT} {target}"] = Scores(plan.setup, direct)
        return found

    def figures(self, found: Mapping[str, Any]) -> Figures:
        def value(name: str) -> float | None:
            return found[name]["metrics"][self.metric] if name in found else None

        first, *others = self.config.steps
        rows: Figures = {_row(0, first): {CHAIN: None, DIRECT: None, TRAINED: value(f"{TRAINED} {first}")}}
        for number, target in enumerate(others, 1):
            rows[_row(number, target)] = {
                CHAIN: value(f"{CHAIN} {number}"),
                DIRECT: value(f"{DIRECT} {target}"),
                TRAINED: value(f"{TRAINED} {target}"),
            }
        return rows

    def paper(self) -> dict[str, dict[str, float]]:
        named = {_row(number, model): paper.family(model) for number, model in enumerate(self.config.steps)}
        if list(named.values()) != ["llama", *paper.FIGURE5]:
            return {}
        return {row: paper.FIGURE5[one] for row, one in named.items() if one in paper.FIGURE5}

    def labels(self) -> dict[str, str]:
        short, steps = self.config.short, self.config.steps
        rows = {_row(number, model): f"{number}: {short(model)}" for number, model in enumerate(steps)}
        return {**rows, DIRECT: f"one migration from {short(steps[0])}", TRAINED: "trained on that LLM"}

    def notes(self, summary: Summary) -> list[str]:
        lines = [
            f"Figures are {self.metric.upper()} of all users. Each adapter is trained on the prompts that came out of "
            "the one before; none is retrained on the way.",
        ]
        last = _row(len(self.config.steps) - 1, self.config.steps[-1])
        chained, direct = summary.mean(last, CHAIN), summary.mean(last, DIRECT)
        if chained is not None and direct:
            lines.append(f"The chain ends at {100 * (chained / direct - 1):+.2f} % of one direct migration.")
        return lines

    def draw(self, figure: Any, summary: Summary) -> None:
        places = {_row(number, model): float(number) for number, model in enumerate(self.config.steps)}
        what = "migrations", self.metric.upper()
        charts.curves(figure.subplots(), summary, places, [CHAIN, DIRECT, TRAINED], what, self.labels())


def _row(number: int, model: str) -> str:
    return f"{number}: {model}"
