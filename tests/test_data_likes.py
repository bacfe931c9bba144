"""Clicks made of ratings."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pytest

from puma_hub.cli.main import main
from puma_hub.data import chronological_split, load_interactions, most_recent, with_likes
from puma_hub.data.held_out import description
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.tasks import ClickTask
from tests.conftest import make_interactions


def rated(users: int = 7, rows: int = 30) -> datasets.Dataset:
    """Ratings in half stars in a random order, where moments are often the same."""
    generator = np.random.default_rng(0)
    count = users * rows
    data = {
        "user_id": generator.permutation(np.repeat([f"user-{n}" for n in range(users)], rows)),
        "item_id": [f"item-{n}" for n in generator.integers(12, size=count)],
        "label": generator.integers(1, 11, size=count) / 2,
        "timestamp": generator.integers(40, size=count),
    }
    frame = pd.DataFrame(data)
    frame["item_text"] = frame["item_id"].str.replace("item-", "Title ")
    return datasets.Dataset.from_pandas(frame, preserve_index=False)


@pytest.mark.parametrize("at_least", [4.0, 2.5, 3])
def test_likes_and_histories_are_those_of_pandas(at_least: float) -> None:
    splits = chronological_split(rated())
    found = with_likes(splits, at_least=at_least)
    frame = pd.concat([rows.to_pandas() for rows in splits.values()], ignore_index=True)
    frame["place"] = range(len(frame))
    ordered = frame.sort_values(["user_id", "timestamp", "place"], kind="stable")
    expected: dict[int, list[str]] = {}
    for _, own in ordered.groupby("user_id"):
        liked: list[str] = []
        for row in own.itertuples():
            expected[row.place] = liked[-5:]
            if row.label >= at_least:
                liked = [*liked, row.item_text]
    start = 0
    for name, rows in found.items():
        before = splits[name]
        assert rows["label"][:] == [float(rating >= at_least) for rating in before["label"]]
        assert rows["click_rating"][:] == before["label"][:]
        for column in ("user_id", "item_id", "item_text", "timestamp"):
            assert rows[column][:] == before[column][:]
        assert rows["history"][:] == [expected[place] for place in range(start, start + len(rows))]
        assert f"ratings of {at_least:g} or more are clicks" in (description(rows) or "")
        start += len(rows)


def test_rows_without_times_and_with_other_columns_stay_as_they_are() -> None:
    rows = rated(2, 6).remove_columns("timestamp").add_column("note", [f"{n}" for n in range(12)])
    rows = rows.add_column("history", [["old"]] * 12)
    found = with_likes(datasets.DatasetDict({"train": rows}))["train"]
    assert found["note"][:] == rows["note"][:] and "timestamp" not in found.column_names
    assert ["old"] not in found["history"][:] and found["history"][0] == []


def test_item_statistics_are_of_ratings() -> None:
    splits = chronological_split(make_interactions(12, 10))
    from puma_hub.data.item_statistics import with_item_statistics

    of_ratings = with_item_statistics(splits)
    of_clicks = with_item_statistics(with_likes(splits))
    for name in splits:
        assert of_clicks[name]["item_text"][:] == of_ratings[name]["item_text"][:]
        assert set(of_clicks[name]["label"]) == {0.0, 1.0}
        assert all("Rating" not in title for titles in of_clicks[name]["history"] for title in titles)


def test_what_tells_nothing_apart_is_refused() -> None:
    splits = chronological_split(rated())
    with pytest.raises(InteractionsError, match=r"all of 210 ratings are at least 0"):
        with_likes(splits, at_least=0)
    with pytest.raises(InteractionsError, match=r"none of 210 ratings are at least 7"):
        with_likes(splits, at_least=7)
    missing = datasets.DatasetDict(
        train=splits["train"].map(lambda row, n: {"label": row["label"] if n else None}, with_indices=True)
    )
    with pytest.raises(InteractionsError, match="1 of 168 ratings are missing"):
        with_likes(missing)
    for bad in (float("nan"), float("inf"), True, "4"):
        with pytest.raises(ConfigurationError, match="must begin at a finite rating"):
            with_likes(splits, at_least=bad)  # type: ignore[arg-type]


def test_files_are_loaded_with_likes(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "ratings.parquet"
    rated().to_parquet(path)
    loaded = load_interactions(path, likes_from=4, rows_per_user=20, task=ClickTask())
    plain = with_likes(chronological_split(most_recent(rated(), 20)))
    assert {name: rows["label"][:] for name, rows in loaded.items()} == {
        name: rows["label"][:] for name, rows in plain.items()
    }
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        load_interactions(path, likes_from=4, negatives=2)
    assert main(["data", str(path), "--likes-from", "4"]) == 0
    assert main(["data", str(path), "--likes-from", "9"]) != 0
    assert "none of 210 ratings" in capsys.readouterr().err
