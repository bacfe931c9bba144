"""The pictures of a report, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from puma_hub.evaluation.gain_picture import draw_gains
from puma_hub.evaluation.pictures import INK, inline_svg, new_figure, svg_style

# Readable on white and on black, and told apart by their marks too.
_SOURCE, _TARGET, _LINES = "#3f86d0", "#c8761a", "#8a929b"
_MARKS = {"source": (_SOURCE, "o"), "target": (_TARGET, "s")}
_WIDTH = 5.0  # inches; 1 inch is 72 pixels on the narrowest phones
_APART = 0.14  # of the two sides, in lines


def drawings(data: Mapping[str, Any], gains: np.ndarray) -> dict[str, Markup]:
    """The pictures by name; ``gains (U, 2)`` are the users' personal gains."""
    with svg_style():
        return {
            "figures": _figures(data),
            "gains": _gains(data, gains),
            "drift": _drift(data),
            "worse": _worse(data),
            "calibration": _calibration(data),
        }


def _figures(data: Mapping[str, Any]) -> Markup:
    names = ("own", "mean", "shuffled")
    figures = data["figures"][data["metric"]]
    figure, axes = _axes(2.4)
    for number, (side, (colour, mark)) in enumerate(_MARKS.items()):
        found = [figures[side].get(name) for name in names]
        _points(axes, found, np.arange(len(names)) + (number - 0.5) * 2 * _APART, colour, mark, side)
    _lines(axes, [f"{name} prompts" for name in names], data["metric"])
    _legend(axes)
    told = ", ".join(
        f"{side} {name} {figures[side][name]['estimate']:.4f}"
        for side in _MARKS
        for name in names
        if figures[side].get(name) and figures[side][name]["estimate"] is not None
    )
    return inline_svg(
        figure, "figures", f"{data['metric']} with own, mean and shuffled prompts, with intervals: {told}"
    )


def _gains(data: Mapping[str, Any], gains: np.ndarray) -> Markup:
    figure, axes = _axes(4.2)
    draw_gains(axes, gains, _TARGET)
    found = data["gains"]["pearson"]["estimate"]
    told = "not defined" if found is None else f"{found:.2f}"
    about = "Each user's personal gain, on the source across and on the target up, with the line where both are equal"
    return inline_svg(figure, "gains", f"{about}. {len(gains)} users, correlation {told}")


def _drift(data: Mapping[str, Any]) -> Markup:
    by_activity, by_cluster = data["drift"]["by_activity"], data["drift"]["by_cluster"]
    groups = [("all users", data["drift"]["all"])]
    groups += [(f"{_range(one['activity'])} rows", one) for one in by_activity["groups"]]
    groups += [(f"cluster {one['cluster']}", one) for one in by_cluster]
    figure, axes = _axes(0.8 + 0.27 * len(groups))
    axes.axvline(0, color=_LINES, linewidth=1)
    _points(axes, [one["drift"] for _, one in groups], np.arange(len(groups)), _TARGET, "s")
    _lines(axes, [name for name, _ in groups], "target minus source")
    low, high = (end(one["drift"]["estimate"] for _, one in groups) for end in (min, max))
    about = f"By how much scores move, by {by_activity['of']} and by cluster of prompts, with intervals"
    return inline_svg(figure, "drift", f"{about}: from {low:+.4f} to {high:+.4f}")


def _worse(data: Mapping[str, Any]) -> Markup:
    worse = data["worse"]
    lines = [("at all", worse["any"]["share"], worse["any"]["by_noise"])]
    lines += [(f"by more than {one['above']:.0%}", one["share"], one["by_noise"]) for one in worse["thresholds"]]
    if worse["clearly"]["users"]:
        lines.append(("clearly", worse["clearly"]["share_worse"], worse["clearly"]["by_noise"]))
    figure, axes = _axes(0.9 + 0.3 * len(lines))
    for place, (_, _, noise) in enumerate(lines):
        label = "by noise alone" if not place else None
        axes.plot([noise["low"], noise["high"]], [place] * 2, color=_LINES, linewidth=9, alpha=0.5, label=label)
    _points(axes, [share for _, share, _ in lines], np.arange(len(lines)), _TARGET, "s", "users who get worse")
    _lines(axes, [name for name, _, _ in lines], "share of users")
    axes.set_xlim(left=0)
    _legend(axes, "lower right")
    told = "; ".join(
        f"{name} {share['estimate']:.1%}, by noise {noise['expected']:.1%}" for name, share, noise in lines
    )
    return inline_svg(figure, "worse", f"Shares of users who get worse, beside what noise alone shows: {told}")


def _calibration(data: Mapping[str, Any]) -> Markup:
    figure, axes = _axes(4.2)
    bins = {side: data["calibration"][side]["bins"] for side in _MARKS}
    ends = [one[what] for side in bins.values() for one in side for what in ("prediction", "label")]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=_LINES, linewidth=1)
    for side, (colour, mark) in _MARKS.items():
        found = [[one[what] for one in bins[side]] for what in ("prediction", "label")]
        axes.plot(*found, color=colour, marker=mark, label=side)
    axes.set(xlabel="mean prediction of a bin", ylabel="mean label")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)
    slopes = ", ".join(f"{side} slope {data['calibration'][side]['slope']:.2f}" for side in _MARKS)
    about = "Mean label over mean prediction in bins of rows, with the line where both are equal"
    return inline_svg(figure, "calibration", f"{about}: {slopes}")


def _axes(height: float) -> tuple[Any, Any]:
    figure = new_figure(_WIDTH, height)
    return figure, figure.subplots()


def _points(
    axes: Any,
    found: Sequence[Mapping[str, float | None] | None],
    places: np.ndarray,
    colour: str,
    mark: str,
    label: str | None = None,
) -> None:
    """An estimate with its interval on each line; those that are not defined are left out."""
    for one, place in zip(found, places.tolist()):
        if one is None or one["estimate"] is None:
            continue
        if one["low"] is not None and one["high"] is not None:
            axes.plot([one["low"], one["high"]], [place] * 2, color=colour, linewidth=1.5)
        axes.plot(one["estimate"], place, mark, color=colour, label=label)
        label = None


def _lines(axes: Any, names: Sequence[str], across: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first line on top
    axes.grid(axis="y", color=_LINES, linewidth=0.3)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(across)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Any, place: str = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, loc=place)


def _range(activity: Mapping[str, int]) -> str:
    low, high = activity["from"], activity["to"]
    return str(low) if low == high else f"{low} to {high}"
