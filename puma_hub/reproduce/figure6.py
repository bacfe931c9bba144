"""Figure 6: two sources aggregated into one target, beside each alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.lessons import LabelledRows, Lessons, TaughtRows
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
        found: dict[str, Part] = {}
        for source, bank in zip(sources, banks):
            migrated = plan.migrated(plan.adapter(bank, target, selection), bank)
            found[_alone(source)] = Scores(plan.setup, migrated)
            found[_trained(source)] = Scores(plan.setup, bank)
        adapter = plan.joined(banks, target, plan.joint_lessons(banks, selection))
        found[AGGREGATED] = Scores(plan.setup, plan.migrated(adapter, *banks))
        return found
