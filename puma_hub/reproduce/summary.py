"""Figures of several seeds: their mean, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

ENOUGH_SEEDS = 3
CONFIDENCE = 0.95
_METRICS = {"rmse": "RMSE", "mae": "MAE", "auc": "AUC", "user_auc": "user AUC"}


@dataclass(frozen=True)
class Estimate:
    """A figure of each seed; None where a seed does not define it."""

    seeds: dict[int, float | None]

    @property
    def values(self) -> list[float]:
        return [value for value in self.seeds.values() if value is not None]

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that define it."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean over seeds, by Student's t; None for fewer than two."""
        return half_width(self.values)

    def to_dict(self) -> dict[str, Any]:
        mean, half = self.mean, self.half_width
        interval = None if mean is None or half is None else [mean - half, mean + half]
        return {"seeds": {str(seed): value for seed, value in self.seeds.items()}, "mean": mean, "interval": interval}


def heading(column: str, labels: Mapping[str, str]) -> str:
    """A column in words: its label, or the usual spelling of a metric."""
    return labels.get(column, _METRICS.get(column, column))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of ``values``, by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error


@dataclass(frozen=True)
class Summary:
    """A table of estimates: ``cells[row][column]``."""

    cells: dict[str, dict[str, Estimate]]

    @classmethod
    def of(cls, figures: Mapping[int, Mapping[str, Mapping[str, float | None]]]) -> Summary:
        """From the figures of each seed; a row or column that a seed lacks is not defined there."""
        rows = list(dict.fromkeys(row for found in figures.values() for row in found))
        cells: dict[str, dict[str, Estimate]] = {}
        for row in rows:
            columns = dict.fromkeys(column for found in figures.values() for column in found.get(row, {}))
            cells[row] = {
                column: Estimate({seed: found.get(row, {}).get(column) for seed, found in figures.items()})
                for column in columns
            }
        return cls(cells)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.cells.values() for column in row))

    def mean(self, row: str, column: str) -> float | None:
        """The mean of a cell; None where there is none."""
        estimate = self.cells.get(row, {}).get(column)
        return None if estimate is None else estimate.mean

    def differences(self, column: str, reference: str) -> dict[str, Estimate]:
        """Each row minus the row ``reference`` in ``column``, seed by seed: the same users on both sides."""
        base = self.cells[reference][column].seeds
        found = {}
        for row, columns in self.cells.items():
            if row != reference and column in columns:
                pairs = {seed: (value, base.get(seed)) for seed, value in columns[column].seeds.items()}
                found[row] = Estimate(
                    {seed: None if a is None or b is None else a - b for seed, (a, b) in pairs.items()}
                )
        return found

    def within_seeds(self, rows: Sequence[str], columns: Sequence[str]) -> dict[tuple[str, str], float | None]:
        """Half widths of the 95 % intervals of cells, without what all cells of a seed have in common.

        Some seeds' users are harder to predict than others', in all cells alike. So each seed's mean over the cells is
        taken out first (Cousineau 2005), and the widths are corrected for it (Morey 2008). Cells that a seed does not
        define are left out.
        """
        shown = {
            (row, column): list(cell.seeds.values())
            for row in rows
            for column, cell in self.cells[row].items()
            if column in columns and None not in cell.seeds.values()
        }
        values = np.array(list(shown.values()), dtype=float)
        if len(values) < 2:
            return {}
        corrected = np.sqrt(len(values) / (len(values) - 1)) * (values - values.mean(0))
        return {cell: half_width(own) for cell, own in zip(shown, corrected)}

    def to_dict(self) -> dict[str, Any]:
        return {row: {name: cell.to_dict() for name, cell in columns.items()} for row, columns in self.cells.items()}
