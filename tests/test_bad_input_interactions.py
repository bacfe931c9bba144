"""Mistakes in interactions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puma_hub import (
    ClickTask,
    RatingTask,
)
from puma_hub import errors as e
from puma_hub.data import check_interactions, load_interactions
from tests.bad_input import (
    Case,
    require_clear_error,
)

CASES: dict[str, Case] = {
    "no such file": (lambda p: load_interactions("absent.csv"), e.StorageError, "no interactions at absent.csv"),
    "unknown ending": (lambda p: load_interactions(p.file("r.xls", "x")), e.StorageError, "unknown ending"),
    "not the format it says": (
        lambda p: load_interactions(p.file("r.parquet", "x")),
        e.InteractionsError,
        "as parquet",
    ),
    "a column is missing": (
        lambda p: load_interactions(p.csv(label=None)),
        e.InteractionsError,
        "label missing.*rename",
    ),
    "an id is empty": (lambda p: load_interactions(p.csv(user_id="")), e.InteractionsError, "'user_id' is empty in"),
    "an item has no text": (lambda p: load_interactions(p.csv(item_text="")), e.InteractionsError, "drop or fill"),
    "labels are words": (lambda p: load_interactions(p.csv(label="good")), e.InteractionsError, "must hold numbers"),
    "labels are infinite": (lambda p: load_interactions(p.csv(label=np.inf)), e.InteractionsError, "NaN or infinite"),
    "ratings outside the task": (
        lambda p: load_interactions(p.csv(label=9), task=RatingTask()),
        e.InteractionsError,
        "outside the task's values.*9.0",
    ),
    "ratings for a click task": (lambda p: check_interactions(p.rows, ClickTask()), e.InteractionsError, r"\(0, 1\)"),
    "histories are not lists": (
        lambda p: load_interactions(p.csv(history="Toy Story; Heat")),
        e.InteractionsError,
        "lists of titles, found string; csv has no lists",
    ),
    "a timestamp is missing": (
        lambda p: load_interactions(p.csv(timestamp=[1, None] * 48)),
        e.InteractionsError,
        "'timestamp' is empty in 48 of 96 rows",
    ),
    "timestamps without an order": (
        lambda p: load_interactions(p.csv(timestamp="12/31/2019")),
        e.InteractionsError,
        "such as 2024-12-31 23:59:00, found '12/31/2019'",
    ),
    "timestamps of another type": (
        lambda p: check_interactions(p.rows.remove_columns("timestamp").add_column("timestamp", [True] * 96)),
        e.InteractionsError,
        "must hold numbers or times",
    ),
    "no rows": (lambda p: check_interactions(p.rows.select([])), e.InteractionsError, "empty"),
    "not a dataset": (lambda p: check_interactions([{"user_id": "a"}]), e.InteractionsError, "got list"),  # type: ignore[arg-type]
    "held-out share": (lambda p: load_interactions(p.csv(), held_out=1.0), e.ConfigurationError, "between 0 and 1"),
    "MovieLens not fetched": (
        lambda p: load_interactions("movielens-100k", folder=p.folder),
        e.StorageError,
        "puma-hub fetch movielens-100k",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_and_nothing_left(case: str, tmp_path: Path) -> None:
    require_clear_error(CASES[case], tmp_path)
