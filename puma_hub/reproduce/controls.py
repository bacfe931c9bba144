"""Controls: whether what is moved is personal, for users the adapter never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.directions import retention
from puma_hub.reproduce import charts
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import PersonalGain
from puma_hub.reproduce.summary import Summary

_ROWS = {
    "own": "own prompts",
    "mean": "one mean prompt for all",
    "shuffled": "prompts deranged among users",
    "gain": "personal gain, of own over mean prompts",
}
RETENTION = "retention"


class ControlsExperiment(Experiment):
    """Own, mean and deranged prompts on source and target LLM, and the retention of the personal gain."""

    title = "Users the adapter never saw"

    def parts(self, plan: Plan) -> dict[str, Part]:
        source = plan.bank(self.config.source)
        selection = plan.selection(source)
        banks = {
            "source": source,
            "migrated": plan.migrated(plan.adapter(source, self.config.target, selection), source),
            "retrained": plan.bank(self.config.target),
        }
        return {name: PersonalGain(plan.setup, bank, selection) for name, bank in banks.items()}

    def figures(self, found: Mapping[str, Any]) -> Figures:
        values = {name: report["by_metric"][self.metric] for name, report in found.items()}
        rows: Figures = {row: {name: own[row] for name, own in values.items()} for row in _ROWS}
        before = values["source"]["gain"]
        rows[RETENTION] = {
            name: None if name == "source" else retention(before, own["gain"]) for name, own in values.items()
        }
        return rows

    def labels(self) -> dict[str, str]:
        return {
            **_ROWS,
            RETENTION: "retention of the personal gain",
            "source": f"source prompts, {self.config.short(self.config.source)}",
            "migrated": f"migrated prompts, {self.config.short(self.config.target)}",
            "retrained": "retrained prompts",
        }

    def notes(self, summary: Summary) -> list[str]:
        kept = retention(summary.mean("gain", "source"), summary.mean("gain", "migrated"))
        ratio = "there is none on the source LLM" if kept is None else f"{kept:.2f} of it is retained"
        return [
            f"Figures are {self.metric.upper()}, but for the last two rows. The adapter trained on "
            f"{self.config.share:.0%} of the users; these are the others.",
            "Something personal was moved where own prompts beat the mean prompt, and the mean prompt deranged ones.",
            "The retention is uncertain where the gain on the source LLM is small. Of the gain's mean over seeds, "
            f"{ratio}.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        names = ["source", "migrated", "retrained"]
        shown = Summary({row: summary.cells[row] for row in ("own", "mean", "shuffled")})
        for axes, name in zip(figure.subplots(1, len(names), sharex=True, sharey=True), names):
            charts.points(axes, shown, name, self.labels(), highlight=("own",))
            axes.label_outer()
