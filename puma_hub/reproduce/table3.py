"""Table 3: what an adapter costs, and what retraining costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.reproduce import charts, paper
from puma_hub.reproduce.banks import TrainedBank
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import ReadTexts
from puma_hub.reproduce.summary import Summary

_RETRAINED = "retrained"
ALONE, TEACHER, WHOLE = "training alone", "with the teacher", "with teacher and prefix caches"


class Table3(Experiment):
    """FLOPs and seconds up to the best epoch, with teacher and prefix caches counted and not."""

    title = "Cost of retraining all users, and of an adapter"
    paper_source = "section on cost, Amazon"

    def parts(self, plan: Plan) -> dict[str, Part]:
        config, setup = self.config, plan.setup
        length = config.prompts.get("prompt_length") or 1
        source = plan.bank(config.source)
        adapter = plan.adapter(source, config.target)
        return {
            "source texts": ReadTexts(setup, config.source, length),
            "target texts": ReadTexts(setup, config.target, length),
            "lessons": adapter.lessons,
            "adapter": adapter,
            _RETRAINED: plan.bank(config.target),
            **{name: TrainedBank(setup, config.target, how) for name, how in config.retrainings.items()},
        }

    def figures(self, found: Mapping[str, Any]) -> Figures:
        rows = self._rows(found, found[_RETRAINED])
        for other in self.config.retrainings:
            rows |= {f"{name}; {other}": row for name, row in self._rows(found, found[other]).items()}
        return rows

    def _rows(self, found: Mapping[str, Any], retrained: Mapping[str, Any]) -> Figures:
        adapter, lessons = found["adapter"], found["lessons"]
        flops, seconds = {}, {}
        for name, report in (("adapter", adapter), ("retraining", retrained)):
            flops[name] = report["flops"]["until_best_epoch"] - report["flops"]["prefix_cache"]
            seconds[name] = report["seconds"]["until_best_epoch"] - report["seconds"]["prefix_cache"]
        teacher = lessons.get("flops", 0.0), lessons.get("seconds", 0.0)
        texts = {
            "adapter": _texts(adapter["flops"]["prefix_cache"], found["target texts"]),
            "retraining": _texts(retrained["flops"]["prefix_cache"], found["target texts"]),
            "teacher": _texts(lessons.get("prefix_flops", 0.0), found["source texts"]),
        }
        taught = {"flops": flops["adapter"] + teacher[0], "seconds": seconds["adapter"] + teacher[1]}
        return {
            ALONE: _row(flops["adapter"], flops["retraining"], seconds["adapter"], seconds["retraining"]),
            TEACHER: _row(taught["flops"], flops["retraining"], taught["seconds"], seconds["retraining"]),
            WHOLE: _row(
                taught["flops"] + texts["adapter"][0] + texts["teacher"][0],
                flops["retraining"] + texts["retraining"][0],
                taught["seconds"] + texts["adapter"][1] + texts["teacher"][1],
                seconds["retraining"] + texts["retraining"][1],
            ),
        }

    def paper(self) -> dict[str, dict[str, float]]:
        cost = paper.COST
        return {
            ALONE: {
                "adapter, s": cost["adapter"],
                "retraining, s": cost["retraining"],
                "ratio of seconds": cost["ratio"],
            }
        }

    def notes(self, summary: Summary) -> list[str]:
        return [
            "FLOPs are estimated, 2 for each weight of the layers and token, forward and as many backward.",
            "Prefix caches are the items' texts through an LLM, once each: those of the rows each training sees, and "
            "for the teacher on the source LLM. Their seconds are a share of the seconds that all texts take.",
            "The source bank is there in either case and counts on neither side.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        labels = {"ratio of FLOPs": "retraining / adapter, FLOPs"}
        charts.points(figure.subplots(), summary, "ratio of FLOPs", labels)


def _texts(flops: float, whole: Mapping[str, float]) -> tuple[float, float]:
    """FLOPs and seconds of reading some of the texts, whose seconds are as those of all."""
    return flops, whole["seconds"] * flops / max(whole["flops"], 1.0)


def _row(adapter: float, retraining: float, adapter_seconds: float, seconds: float) -> dict[str, float | None]:
    return {
        "adapter, FLOPs": adapter,
        "retraining, FLOPs": retraining,
        "ratio of FLOPs": retraining / adapter if adapter else None,
        "adapter, s": adapter_seconds,
        "retraining, s": seconds,
        "ratio of seconds": seconds / adapter_seconds if adapter_seconds else None,
    }
