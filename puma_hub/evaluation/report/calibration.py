"""Whether predictions mean what they say: their line against labels, and labels in bins of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from puma_hub.evaluation.calibrate import level_and_slope
from puma_hub.evaluation.report.bootstrap import Bootstrap, of_sums
from puma_hub.evaluation.report.paired import PairedRows

_BINS = 10


def calibration(rows: PairedRows, bootstrap: Bootstrap) -> dict[str, Any]:
    """For source and target, with own prompts:

    - ``level`` and ``slope`` of labels on predictions, as ``puma-hub calibrate`` would fit them; 0 and 1 need none.
      For probabilities they are of the log-odds.
    - ``bins``: rows in ten bins of equally many, by their prediction; equal predictions are in one bin.
    - For probabilities, ``brier``, the mean squared error, and ``ece``, the mean over rows of the distance between the
      mean prediction and the mean label of the row's bin.
    """
    return {name: _calibration(rows, side["own"], bootstrap) for name, side in _sides(rows)}


def _sides(rows: PairedRows) -> tuple[tuple[str, Any], ...]:
    return ("source", rows.source), ("target", rows.target)


def _calibration(rows: PairedRows, predictions: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    outputs = rows.task.link(torch.from_numpy(predictions)).numpy()
    level, slope = level_and_slope(outputs, rows.labels, rows.task)
    bins = reliability(predictions, rows.labels)
    found: dict[str, Any] = {"level": level, "slope": slope, "bins": bins}
    if rows.are_probabilities:
        sums = np.column_stack([rows.rows, rows.sums(np.square(predictions - rows.labels))])
        brier = of_sums(sums, lambda totals: totals[:, 1:] / totals[:, :1])
        found["brier"] = bootstrap.intervals(brier, ("brier",))["brier"].to_dict()
        distances = [one["rows"] * abs(one["prediction"] - one["label"]) for one in bins]
        found["ece"] = sum(distances) / len(predictions)
    return found


def reliability(predictions: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Rows, mean prediction and mean label in each bin, the lowest predictions first."""
    edges = np.unique(np.quantile(predictions, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.unique(np.searchsorted(edges, predictions), return_inverse=True)[1]
    counts = np.bincount(bins)
    means = [np.bincount(bins, values) / counts for values in (predictions, labels)]
    return [
        {"rows": int(count), "prediction": float(prediction), "label": float(label)}
        for count, prediction, label in zip(counts, *means)
    ]
