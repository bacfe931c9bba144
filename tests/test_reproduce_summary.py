"""Intervals over seeds, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from puma_hub.reproduce.summary import Summary

GRAND = {1: 1.1, 2: 1.02, 3: 1.05}  # what a seed adds to all of its figures


def summary(**rows: dict[int, float | None]) -> Summary:
    return Summary.of({seed: {row: {"rmse": values[seed]} for row, values in rows.items()} for seed in GRAND})


def test_what_a_whole_seed_adds_is_in_no_interval_within_seeds() -> None:
    found = summary(one=GRAND, two={seed: value + 0.5 for seed, value in GRAND.items()})
    assert [found.cells[row]["rmse"].half_width for row in ("one", "two")] == pytest.approx([0.1004] * 2, abs=1e-4)
    widths = found.within_seeds(["one", "two"], ["rmse"])
    assert widths == pytest.approx({("one", "rmse"): 0.0, ("two", "rmse"): 0.0}, abs=1e-12)


def test_two_cells_have_the_interval_of_their_difference_by_the_root_of_two() -> None:
    differences = {1: 0.03, 2: -0.01, 3: 0.02}
    found = summary(one=GRAND, two={seed: value + differences[seed] for seed, value in GRAND.items()})
    values = [*differences.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    width = (high - low) / 2 / np.sqrt(2)
    widths = found.within_seeds(["one", "two"], ["rmse"])
    assert widths == pytest.approx({("one", "rmse"): width, ("two", "rmse"): width})


def test_cells_that_a_seed_lacks_and_single_cells_have_none() -> None:
    found = summary(one=GRAND, two={1: 1.0, 2: None, 3: 1.0})
    assert found.within_seeds(["one", "two"], ["rmse"]) == {}
    assert found.within_seeds(["one"], ["mae"]) == {}
