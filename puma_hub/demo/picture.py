"""The demo's results as one picture: the errors of every way, and each user's personal gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puma_hub.adapter.facts import prediction_labels
from puma_hub.demo.demo_report import DemoResults
from puma_hub.demo.table import compared
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.gain_picture import draw_gains, paired_gains
from puma_hub.evaluation.pictures import new_figure, save_picture

PICTURE = "demo.png"
_COLOURS = {"migrated": "#1b7837", "source": "#5e81ac", "teacher": "#5e81ac", "retrained": "#5e81ac"}
_BASELINE = "#b0b7bf"
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def draw(results: DemoResults, report: dict[str, Any], path: Path) -> None:
    """Write the picture as a PNG of 1,320 x 510 pixels.

    Left: RMSE on all held-out rows. Right: for each user the adapter never saw, the RMSE with one mean prompt for all
    minus the RMSE with the own prompt, on the source LLM (across) and on the target LLM (up).
    """
    figure = new_figure(11, 4.25)
    errors, gains = figure.subplots(1, 2, width_ratios=(1.3, 1))
    _draw_errors(errors, report)
    _draw_gains(gains, results.source.unseen, results.target.unseen, report["unseen"]["retention"])
    save_picture(figure, path)


def _draw_errors(axes: Any, report: dict[str, Any]) -> None:
    names = compared(report)
    values = [report["rmse"][name] for name in names]
    for place, (name, value) in enumerate(zip(names, values)):
        axes.plot(value, place, "o", color=_COLOURS.get(name, _BASELINE))
        axes.annotate(f"{value:.3f}", (value, place), (8, 0), textcoords="offset points", va="center", bbox=_PLAIN)
    axes.set_yticks(range(len(values)), [prediction_labels()[name] for name in names])
    axes.invert_yaxis()
    axes.grid(axis="y", color=_BASELINE, linewidth=0.5)
    axes.margins(x=0.2)
    axes.set_xlabel(f"RMSE, {report['users']['total']} users, held-out rows")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_gains(axes: Any, before: Controls, after: Controls, retention: float | None) -> None:
    points = paired_gains(before, after)
    draw_gains(axes, points, _COLOURS["migrated"])
    kept = "" if retention is None else f"\n{retention:.0%} of the gain kept"
    axes.set_title(f"{len(points)} users the adapter never saw{kept}", fontsize="medium")
