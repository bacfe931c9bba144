"""The metrics of both sides, their personal gains and what is retained of them, with intervals over users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from puma_hub.directions import Metric, retention
from puma_hub.evaluation.report.bootstrap import Bootstrap, plain
from puma_hub.evaluation.report.metric_figures import metric_statistic
from puma_hub.evaluation.report.paired import PairedRows

SIDES = ("source", "target")


def figures(rows: PairedRows, compared: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    """For each metric of the task, the estimates of ``compared`` with their intervals.

    Args:
        compared: the result of :func:`puma_hub.evaluation.compare.compare_controls` for these rows.

    Returns:
        By metric: ``source`` and ``target`` with ``own``, ``mean``, ``shuffled`` and ``gain``; ``worsening``, by how
        much own prompts are worse on the target than on the source, above 0 if they are; ``retention``; and the number
        of ``resamples``. Resamples where the source has no gain have no retention.
    """
    return {metric.name: _figures(metric, rows, compared, bootstrap) for metric in rows.task.metrics}


def _figures(metric: Metric, rows: PairedRows, compared: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    predicted = rows.predicted
    known = {side: compared[side]["by_metric"][metric.name] for side in SIDES}
    statistic = metric_statistic(metric, rows, [*predicted.values()], [known[side][name] for side, name in predicted])
    drawn = dict(zip(predicted, bootstrap.draws(statistic).T))
    sign = 1.0 if metric.lower_is_better else -1.0
    gains = {side: sign * (drawn[side, "mean"] - drawn[side, "own"]) for side in SIDES}
    found: dict[str, Any] = {"lower_is_better": metric.lower_is_better, "resamples": len(gains["source"])}
    for side in SIDES:
        draws = {name: drawn[side, name] for name in ("own", "mean", "shuffled") if (side, name) in drawn}
        draws["gain"] = gains[side]
        found[side] = plain({name: bootstrap.interval(known[side][name], one) for name, one in draws.items()})
    own, moved = (known[side]["own"] for side in SIDES)
    worsening = None if own is None or moved is None else sign * (moved - own)
    kept = retention(known["source"]["gain"], known["target"]["gain"])
    draws = {
        "worsening": sign * (drawn["target", "own"] - drawn["source", "own"]),
        "retention": np.array([_or_nan(retention(*pair)) for pair in zip(*(gains[side].tolist() for side in SIDES))]),
    }
    estimates = {"worsening": worsening, "retention": kept}
    return found | plain({name: bootstrap.interval(estimates[name], one) for name, one in draws.items()})


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
