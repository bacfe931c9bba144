"""Table 2: the errors of every way to prompts on the target LLM, for all users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.adapter.facts import prediction_labels
from puma_hub.extensions import WARM_STARTS
from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.banks import TrainedBank, UntrainedBank
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import Baselines, Scores
from puma_hub.reproduce.summary import Summary
from puma_hub.reproduce.warm_starts import METRICS, WarmStartScores

_BASELINES, _WARM = "baselines", "warm starts"


class Table2(Experiment):
    """Source, migrated, retrained and untrained prompts beside baselines without an LLM, on the same rows."""

    title = "All users, held-out rows"
    paper_source = "Table 2"
    reference = "retrained"

    def parts(self, plan: Plan) -> dict[str, Part]:
        config, setup = self.config, plan.setup
        source = plan.bank(config.source)
        adapter = plan.adapter(source, config.target)
        banks = {
            "source": source,
            "migrated": plan.migrated(adapter, source),
            "retrained": plan.bank(config.target),
            **{name: TrainedBank(setup, config.target, how) for name, how in config.retrainings.items()},
            "random": UntrainedBank(setup, adapter, source),
        }
        return {
            **{name: Scores(setup, bank) for name, bank in banks.items()},
            _WARM: WarmStartScores(setup, source, config.target, tuple(WARM_STARTS)),
            _BASELINES: Baselines(setup),
        }

    def figures(self, found: Mapping[str, Any]) -> Figures:
        ours = {name: report["metrics"] for name, report in found.items() if name not in (_BASELINES, _WARM)}
        untrained = {_warm(method): metrics for method, metrics in found[_WARM][METRICS].items()}
        return {**ours, **untrained, **found[_BASELINES]}

    def paper(self) -> dict[str, dict[str, float]]:
        return paper.TABLE2[self.config.paper]

    def labels(self) -> dict[str, str]:
        warm = {_warm(name): f"no training: vocabulary, {one.about}" for name, one in WARM_STARTS.items()}
        return prediction_labels() | warm

    def notes(self, summary: Summary) -> list[str]:
        return [
            f"The adapter trained on {self.config.share:.0%} of the users. The untrained adapter has the trained head.",
            "Differences are from retraining, on the same users and rows of each seed.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        charts.differences(
            figure.subplots(), summary, self.metric, self.reference, self.labels(), highlight=("migrated",)
        )


def _warm(method: str) -> str:
    return f"warm start {method}"
