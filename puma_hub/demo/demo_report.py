"""The demo's report, and what the adapter's card tells of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from puma_hub.adapter.facts import AdapterFacts, Evaluation, Training
from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.settings import DATA, SOURCE_MODEL, TARGET_MODEL, DemoSettings, compute_dtype
from puma_hub.demo.source_side import SourceSide
from puma_hub.demo.sources import SOURCES
from puma_hub.demo.target_side import TargetSide
from puma_hub.evaluation.compare import compare_controls
from puma_hub.training.report import versions

_SPLIT = "last 20 % of each user's rows"
_METRICS = ("rmse", "mae")


@dataclass(frozen=True)
class DemoResults:
    """Everything that was measured. ``seconds``: of the whole demo; ``stages``: of each stage."""

    settings: DemoSettings
    rows: DemoRows
    source: SourceSide
    target: TargetSide
    seconds: float
    stages: dict[str, float]

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Reports of ``evaluate_bank`` by prediction."""
        return self.source.results | self.target.results

    @cached_property
    def unseen(self) -> dict[str, Any]:
        """The comparison of both banks for the users the adapter never saw, as of ``compare_banks``."""
        return compare_controls(self.source.bank, self.source.unseen, self.target.unseen, self.settings.seed)

    @cached_property
    def other_bank(self) -> dict[str, Any] | None:
        """The same for the users of the bank trained apart, if there are any."""
        other = self.source.other
        if other is None or self.target.other is None:
            return None
        return compare_controls(other.bank, other.controls, self.target.other, self.settings.seed)


def demo_report(results: DemoResults) -> dict[str, Any]:
    """The report of ``puma-hub demo --json``."""
    settings, source, target = results.settings, results.source, results.target
    trained, retrained = target.training["adapter"], target.training["retraining"]
    other = results.other_bank
    costs = _costs(source, target)
    flops = {name: part["flops"] for name, part in costs.items()}
    seconds = {name: part["seconds"] for name, part in costs.items()}
    catalogue = max(part["flops"]["prefix_cache"] for part in (trained, retrained))
    return {
        **_errors(results.evaluations),
        "seconds": {**source.seconds, **target.seconds, **seconds, "total": results.seconds},
        "stages": results.stages,
        "samples": {
            "adapter": trained["samples_until_best_epoch"],
            "retraining": retrained["samples_until_best_epoch"],
        },
        "users": {"total": retrained["users"], "selected": len(source.chosen)},
        "rows": {name: len(part) for name, part in results.rows.splits.items()},
        "unseen": _both_sides(results.unseen),
        "other_bank": None if other is None else _both_sides(other),
        "flops": {**flops, "prefix_cache": catalogue},
        "flops_ratio": flops["retraining"] / flops["adapter"],
        "flops_ratio_with_prefix_cache": (flops["retraining"] + catalogue) / (flops["adapter"] + catalogue),
        "speedup": seconds["retraining"] / seconds["adapter"],
        "best_epoch": {"retraining": retrained["best_epoch"], "of": retrained["epochs"]},
        "models": {
            "source": SOURCES[SOURCE_MODEL].hub_id,
            "target": SOURCES[TARGET_MODEL].hub_id,
            "from": settings.models,
        },
        "settings": settings_in_report(settings) | {"out": settings.out},
        "seed": settings.seed,
        "versions": versions(),
    }


def settings_in_report(settings: DemoSettings) -> dict[str, Any]:
    """What decides the results: the settings but for the folder, and with the dtype that was computed in."""
    dtype = str(compute_dtype(settings.dtype)).removeprefix("torch.")
    decided = {name: value for name, value in asdict(settings).items() if name != "out"}
    return decided | {"items": settings.items, "dtype": dtype}


def demo_facts(results: DemoResults, report: dict[str, Any]) -> AdapterFacts:
    """What the adapter's card tells, from the demo's own figures."""
    users = report["users"]
    training = Training(
        users["selected"],
        users["total"],
        selection="puma: clusters of prompts, strata of rating variance",
        data=DATA,
        samples=report["samples"]["adapter"],
        seconds=report["seconds"]["adapter"],
        seed=report["seed"],
        time_ratio=report["speedup"],
        flops_ratio=report["flops_ratio"],
    )
    evaluations = [
        Evaluation.from_reports(DATA, _SPLIT, results.evaluations),
        Evaluation.from_comparison(DATA, f"{_SPLIT}, users the adapter never saw", results.unseen),
    ]
    if (other := results.other_bank) is not None:
        evaluations.append(Evaluation.from_comparison(DATA, f"{_SPLIT}, users of another training", other))
    return AdapterFacts(tuple(evaluations), training)


def _errors(evaluations: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """RMSE and MAE of every prediction and baseline."""
    found = {name: report["metrics"] for name, report in evaluations.items()} | evaluations["source"]["baselines"]
    return {metric: {name: figures[metric] for name, figures in found.items()} for metric in _METRICS}


def _costs(source: SourceSide, target: TargetSide) -> dict[str, dict[str, float]]:
    """FLOPs and seconds of the adapter and of retraining, up to the best epoch.

    The prefix cache is the target's catalogue: any way to prompts needs it, so it is counted apart.
    """
    costs = {
        name: {kind: part[kind]["until_best_epoch"] - part[kind]["prefix_cache"] for kind in ("flops", "seconds")}
        for name, part in target.training.items()
    }
    costs["adapter"]["flops"] += source.teacher_flops  # the source's predictions are part of the adapter's cost
    costs["adapter"]["seconds"] += source.seconds["teacher"]
    return costs


def _both_sides(compared: dict[str, Any]) -> dict[str, Any]:
    """Own, mean and shuffled prompts of the same users on source and target LLM."""
    before, after = compared["source"], compared["target"]
    return {
        "users": after["users"],
        "rows": after["rows"],
        "source": before["own"],
        "source_mean": before["mean"],
        "source_shuffled": before["shuffled"],
        "migrated": after["own"],
        "migrated_mean": after["mean"],
        "shuffled": after["shuffled"],
        "gain_source": before["gain"],
        "gain_migrated": after["gain"],
        "retention": compared["retention"],
        "worse_users": compared["worse_users"],
    }
