"""The kinds of chart that experiments draw, with 95 % intervals over seeds where there are some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from puma_hub.reproduce.summary import Summary, heading

_COLOUR, _HIGHLIGHT, _GRID = "#5e81ac", "#1b7837", "#d8dee9"


def points(axes: Any, summary: Summary, column: str, labels: Mapping[str, str], highlight: Sequence[str] = ()) -> None:
    """A point for each row that has a figure in ``column``."""
    rows = [row for row in summary.cells if summary.mean(row, column) is not None]
    for place, row in enumerate(rows):
        cell = summary.cells[row][column]
        colour = _HIGHLIGHT if row in highlight else _COLOUR
        axes.errorbar(cell.mean, place, xerr=cell.half_width or 0.0, fmt="o", color=colour, capsize=2)
    axes.set_yticks(range(len(rows)), [labels.get(row, row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.grid(axis="y", color=_GRID, linewidth=0.5)
    axes.margins(x=0.1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(heading(column, labels))
    _plain(axes)


def differences(
    axes: Any,
    summary: Summary,
    column: str,
    reference: str,
    labels: Mapping[str, str],
    highlight: Sequence[str] = (),
) -> None:
    """A point for each other row: ``column`` minus that of the row ``reference``, seed by seed."""
    found = summary.differences(column, reference)
    points(axes, Summary({row: {column: one} for row, one in found.items()}), column, labels, highlight)
    axes.axvline(0, color=_COLOUR, linewidth=1)
    axes.set_xlabel(f"{heading(column, labels)}, difference from: {labels.get(reference, reference)}")


def curves(
    axes: Any,
    summary: Summary,
    rows: Mapping[str, float],
    columns: Sequence[str],
    what: tuple[str, str],
    labels: Mapping[str, str] | None = None,
) -> None:
    """A curve for each column, over ``rows`` with their place on the axis across; ``what`` names both axes.

    Intervals are those within seeds, see :meth:`Summary.within_seeds`.
    """
    labels = labels or {}
    widths = summary.within_seeds(list(rows), columns)
    for column in columns:
        known = [row for row in rows if summary.mean(row, column) is not None]
        means = [float(summary.mean(row, column) or 0.0) for row in known]
        errors = [widths.get((row, column)) or 0.0 for row in known]
        axes.errorbar(
            [rows[row] for row in known], means, yerr=errors, marker="o", capsize=2, label=labels.get(column, column)
        )
    axes.set(xlabel=what[0], ylabel=what[1])
    if columns:
        axes.legend(frameon=False)
    _plain(axes)


def heat_map(axes: Any, summary: Summary, labels: Mapping[str, str], what: tuple[str, str]) -> None:
    """A square for each pair of ``labels`` with its mean; ``what`` names rows and columns."""
    rows = columns = list(labels)
    means = [[summary.mean(row, column) for column in columns] for row in rows]
    values = np.array([[np.nan if mean is None else mean for mean in row] for row in means], dtype=float)
    axes.imshow(values, cmap="RdYlGn", vmin=np.nanmin(values) - 1e-6, vmax=np.nanmax(values) + 1e-6)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.4f}", ha="center", va="center")
    axes.set_yticks(range(len(rows)), list(labels.values()))
    axes.set_xticks(range(len(columns)), list(labels.values()))
    axes.set(ylabel=what[0], xlabel=what[1])


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
