"""The demo's results as one picture: the errors of every way, and each user's personal gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from puma_hub.adapter.facts import prediction_labels
from puma_hub.demo.demo_report import DemoResults
from puma_hub.demo.png import new_figure, save_picture
from puma_hub.demo.table import compared
from puma_hub.evaluation.compare import Controls

PICTURE = "demo.png"
_COLOURS = {"migrated": "#1b7837", "source": "#5e81ac", "teacher": "#5e81ac", "retrained": "#5e81ac"}
_BASELINE = "#b0b7bf"
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}
_LEAST_WIDTH = 1e-6  # where all gains are the same
_MARGIN = 0.05  # of an axis


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
    across, up = gain_by_user(before), gain_by_user(after)
    users = [user for user in across if user in up]
    points = np.array([[across[user], up[user]] for user in users])
    low, high = points.min(), max(points.max(), points.min() + _LEAST_WIDTH)
    limits = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    axes.plot(limits, limits, color=_BASELINE, linewidth=1)
    axes.axhline(0, color=_BASELINE, linewidth=0.5)
    axes.axvline(0, color=_BASELINE, linewidth=0.5)
    axes.scatter(points[:, 0], points[:, 1], s=18, alpha=0.7, color=_COLOURS["migrated"], linewidths=0)
    axes.set(xlim=limits, ylim=limits, xlabel="personal gain on the source LLM", ylabel="... on the target LLM")
    kept = "" if retention is None else f"\n{retention:.0%} of the gain kept"
    axes.set_title(f"{len(users)} users the adapter never saw{kept}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def gain_by_user(controls: Controls) -> dict[str, float]:
    """RMSE with the mean prompt minus RMSE with the own one, of each user."""
    own, mean = controls.errors_by_user("own"), controls.errors_by_user("mean")
    return {user: float(np.sqrt(mean[user][0]) - np.sqrt(own[user][0])) for user in own}
