"""Amazon Reviews 2023 and Yelp from raw files, against plain pandas."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from puma_hub import RatingTask
from puma_hub.data import load_interactions
from puma_hub.data.load import read_interactions
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from puma_hub.extensions import DATASETS
from tests.raw_data import (
    MALFORMED,
    amazon_item,
    amazon_records,
    amazon_review,
    changed,
    lines_of,
    write_amazon,
    write_zip,
    yelp_business,
    yelp_review,
)

COLUMNS = ["user_id", "item_id", "item_text", "label", "timestamp"]


def frame_of(rows: Any) -> pd.DataFrame:
    return pd.DataFrame({name: rows[name][:] for name in COLUMNS})


def plainly_filtered(reviews: pd.DataFrame, texts: dict[str, str], filters: tuple[int, int, int]) -> pd.DataFrame:
    """The paper's filters, one after the other, in pandas."""
    least_of_item, least_of_user, most = filters
    reviews = reviews.drop_duplicates(["user_id", "item_id", "label", "timestamp"])
    frequent = reviews.groupby("item_id")["label"].transform("size") >= least_of_item
    reviews = reviews[frequent & reviews["item_id"].isin(texts)]
    reviews = reviews[reviews.groupby("user_id")["label"].transform("size") >= least_of_user]
    recent = reviews.sort_values("timestamp", kind="stable").groupby("user_id").tail(most).sort_index()
    recent = recent.assign(item_text=recent["item_id"].map(texts))
    return recent[COLUMNS].reset_index(drop=True)


def plain_amazon(categories: bool = False) -> tuple[pd.DataFrame, dict[str, str]]:
    reviews, items = amazon_records()
    names = {"parent_asin": "item_id", "rating": "label"}
    frame = pd.DataFrame(reviews)[["user_id", "parent_asin", "rating", "timestamp"]].rename(columns=names)
    texts: dict[str, str] = {}
    for item in items:
        title = re.sub(r"\s+", " ", item.get("title") or "").strip()
        if title and item["parent_asin"] not in texts:
            kinds = item["categories"] if categories else None
            texts[item["parent_asin"]] = title + "".join(f", {kind}" for kind in kinds or [])
    return frame, texts


@pytest.mark.parametrize("filters", [(10, 20, 85), (40, 12, 14), (1, 1, 3)])
def test_amazon_against_pandas(tmp_path: Path, filters: tuple[int, int, int]) -> None:
    options = dict(zip(("min_item_reviews", "min_user_reviews", "max_user_reviews"), filters))
    read = read_interactions("amazon-movies", folder=write_amazon(tmp_path), **options)
    expected = plainly_filtered(*plain_amazon(), filters)
    pd.testing.assert_frame_equal(frame_of(read.rows), expected)
    assert expected["user_id"].nunique() > 3
    assert "映画" in expected["item_text"].iloc[0] and "\n" not in "".join(expected["item_text"])
    assert read.counts["repeated_reviews"] == int(plain_amazon()[0].duplicated().sum()) > 20


def test_the_paper_s_values_are_the_defaults_and_the_last_fifth_is_held_out(tmp_path: Path) -> None:
    splits = load_interactions("amazon-movies", folder=write_amazon(tmp_path), task=RatingTask())
    expected = plainly_filtered(*plain_amazon(), (10, 20, 85))
    for user, rows in expected.groupby("user_id"):
        ordered = rows.sort_values("timestamp", kind="stable")
        first = int(np.floor(len(rows) * 0.8 + 1e-9))
        for split, part in (("train", ordered[:first]), ("validation", ordered[first:])):
            found = frame_of(splits[split].filter(lambda row, user=user: row["user_id"] == user))
            pd.testing.assert_frame_equal(found, part.reset_index(drop=True))
    assert DATASETS.options("amazon-movies") == [
        "categories",
        "min_item_reviews",
        "min_user_reviews",
        "max_user_reviews",
        "max_malformed",
    ]


def test_categories_are_part_of_the_text_on_request(tmp_path: Path) -> None:
    read = read_interactions("amazon-movies", folder=write_amazon(tmp_path), categories=True)
    expected = plainly_filtered(*plain_amazon(categories=True), (10, 20, 85))
    pd.testing.assert_frame_equal(frame_of(read.rows), expected)
    assert expected["item_text"].str.endswith(", Movies & TV, Drama").mean() > 0.5


BAD_VALUES = [
    amazon_review("u", "B00001", 0.0, 1),
    amazon_review("u", "B00001", "5", 1),
    amazon_review("u", None, 5.0, 1),
    amazon_review("", "B00001", 5.0, 1),
    amazon_review("u", "B00001", 5.0, "2015"),
    amazon_review("u", "B00001", 5.0, 10**30),
    {name: value for name, value in amazon_review("u", "B00001", 5.0, 1).items() if name != "user_id"},
]


def test_malformed_lines_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = [*MALFORMED, b"", b"  ", *(json.dumps(value).encode() for value in BAD_VALUES)]
    write_amazon(tmp_path, malformed=faults)
    with caplog.at_level(logging.WARNING):
        read = read_interactions("amazon-movies", folder=tmp_path, max_malformed=0.5)
    pd.testing.assert_frame_equal(frame_of(read.rows), plainly_filtered(*plain_amazon(), (10, 20, 85)))
    assert read.counts["malformed_review_lines"] == len(faults) - 2
    assert read.counts["review_lines"] == len(amazon_records()[0]) + len(faults) - 2
    assert f"{len(faults) - 2} malformed review lines are left out" in caplog.text
    with pytest.raises(
        InteractionsError,
        match=r"11 of \d+ lines are malformed.*max_malformed=0.005; .* line 4: Input data was truncated",
    ):
        read_interactions("amazon-movies", folder=tmp_path, max_malformed=0.005)


def test_messages_hold_nothing_of_a_line(tmp_path: Path) -> None:
    secret = json.dumps(amazon_review("AUTHOR-OF-A-SECRET", "B1", "a secret", 1)).encode()
    write_amazon(tmp_path, malformed=[secret] * 30)
    with pytest.raises(InteractionsError) as caught:
        read_interactions("amazon-movies", folder=tmp_path)
    assert "SECRET" not in str(caught.value).upper() and "$.rating" in str(caught.value)


def test_another_kind_of_file_is_known_after_a_thousand_lines(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    with gzip.open(tmp_path / "Movies_and_TV.jsonl.gz", "wb") as file:
        file.write(b"user,item,rating\n" * 5000)
    with pytest.raises(InteractionsError, match="1000 of 1000 lines are malformed"):
        read_interactions("amazon-movies", folder=tmp_path)


@pytest.mark.parametrize("give", ["folder", "parts", "reviews", "metadata", "unpacked", "zip", "hub"])
def test_where_the_files_may_be(tmp_path: Path, give: str) -> None:
    expected = plainly_filtered(*plain_amazon(), (10, 20, 85))
    place = write_amazon(tmp_path)
    names = ("Movies_and_TV.jsonl", "meta_Movies_and_TV.jsonl")
    if give == "parts":
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / f"{name}.gz").rename(tmp_path / name / f"{name}.gz")
    elif give in ("unpacked", "hub"):
        folders = ("raw/review_categories", "raw/meta_categories") if give == "hub" else ("", "")
        for name, folder in zip(names, folders):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
            (tmp_path / f"{name}.gz").unlink()
    elif give == "zip":
        files = {name: gzip.decompress((tmp_path / f"{name}.gz").read_bytes()) for name in names}
        place = write_zip(tmp_path / "mine.zip", files, "data/")
    elif give != "folder":
        place = tmp_path / f"{names[give == 'metadata']}.gz"
    pd.testing.assert_frame_equal(frame_of(read_interactions("amazon-movies", folder=place).rows), expected)


@pytest.mark.parametrize("missing", ["Movies_and_TV.jsonl", "meta_Movies_and_TV.jsonl"])
def test_a_missing_file_is_named_with_its_publisher(tmp_path: Path, missing: str) -> None:
    write_amazon(tmp_path)
    (tmp_path / f"{missing}.gz").unlink()
    with pytest.raises(StorageError, match=f"but not {missing}; .*page of Amazon Reviews 2023.*--folder"):
        load_interactions("amazon-movies", folder=tmp_path)
    with pytest.raises(StorageError, match=f"there is no .*nowhere; needed are .*{missing}"):
        load_interactions("amazon-movies", folder=tmp_path / "nowhere")


def test_the_category_decides_the_file(tmp_path: Path) -> None:
    write_amazon(tmp_path, "All_Beauty")
    assert len(load_interactions("amazon-all-beauty", folder=tmp_path)["train"])
    with pytest.raises(StorageError, match=r"lacks Movies_and_TV.jsonl and meta_Movies_and_TV.jsonl"):
        load_interactions("amazon-movies", folder=tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"'amazon-beauty' is no data set by name; did you mean .*amazon-all-be"
    ):
        load_interactions("amazon-beauty", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="has no option 'category'"):
        load_interactions("amazon-all-beauty", folder=tmp_path, category="Books")
    assert sum(name.startswith("amazon-") for name in DATASETS) == 34


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[:-12] + b"\x00" * 12, "damaged"),
        (lambda data: data[:60] + bytes(255 - byte for byte in data[60:90]) + data[90:], "damaged"),
        (lambda data: b"", "is empty"),
    ],
)
def test_a_damaged_archive_is_an_error(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    changed(write_amazon(tmp_path) / "Movies_and_TV.jsonl.gz", change)
    with pytest.raises(InteractionsError, match=message):
        load_interactions("amazon-movies", folder=tmp_path)


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    for name, records in zip(("Movies_and_TV.jsonl", "meta_Movies_and_TV.jsonl"), amazon_records()):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + lines_of(records, end=b"\r\n"))
    read = read_interactions("amazon-movies", folder=tmp_path, max_malformed=0)
    pd.testing.assert_frame_equal(frame_of(read.rows), plainly_filtered(*plain_amazon(), (10, 20, 85)))


def test_filters_that_leave_nothing_say_at_which_step(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    with pytest.raises(
        InteractionsError, match=r"no user is left: none has min_user_reviews=500 .*most that one has are"
    ):
        load_interactions("amazon-movies", folder=tmp_path, min_user_reviews=500, max_user_reviews=500)
    with pytest.raises(InteractionsError, match="no item is left: 0 have min_item_reviews=5000"):
        load_interactions("amazon-movies", folder=tmp_path, min_item_reviews=5000)
    other = [amazon_item(f"C{number}") for number in range(9)]
    (tmp_path / "meta_Movies_and_TV.jsonl").write_bytes(lines_of(other))
    with pytest.raises(InteractionsError, match=r"none of them has a text in .*files belong together"):
        load_interactions("amazon-movies", folder=tmp_path)
    changed(tmp_path / "Movies_and_TV.jsonl.gz", lambda _: gzip.compress(b"{}\n" * 5))
    with pytest.raises(InteractionsError, match="no item is left"):
        load_interactions("amazon-movies", folder=tmp_path, max_malformed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_user_reviews": 0}, "min_user_reviews must be a whole number of at least 1, got 0"),
        ({"min_user_reviews": 30, "max_user_reviews": 20}, "at least min_user_reviews, got 20 and 30"),
        ({"max_malformed": 2}, "max_malformed must lie between 0 and 1"),
        ({"min_stars": 2}, "has no option 'min_stars'; its options are categories, min_item_reviews"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_interactions("amazon-movies", folder=write_amazon(tmp_path), **options)


def yelp_records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    generator = np.random.default_rng(1)
    reviews = []
    for user in range(25):
        for _ in range(int(generator.integers(10, 100))):
            date = datetime(2015, 1, 1, 22, 9, 11) + timedelta(hours=int(generator.integers(0, 9000)))
            business = f"b{generator.integers(0, 20)}"
            reviews.append(yelp_review(f"u{user}", business, float(generator.integers(1, 6)), f"{date}"))
    businesses = [yelp_business(f"b{number}") for number in range(19)]
    businesses[0]["categories"] = None
    businesses[1]["name"] = ""
    businesses[2] |= {"stars": None, "review_count": None, "categories": "Bars,  Nightlife, "}
    businesses[3]["stars"] = 4.0
    return reviews, businesses


def test_yelp_against_pandas(tmp_path: Path) -> None:
    reviews, businesses = yelp_records()
    faults = [*MALFORMED, json.dumps(yelp_review("u", "b1", 5.0, "yesterday")).encode()]
    (tmp_path / "yelp_academic_dataset_review.json").write_bytes(lines_of(reviews, faults))
    (tmp_path / "yelp_academic_dataset_business.json").write_bytes(lines_of(businesses))
    read = read_interactions("yelp", folder=tmp_path)
    frame = pd.DataFrame(reviews).rename(columns={"business_id": "item_id", "stars": "label"})
    frame["timestamp"] = (pd.to_datetime(frame["date"]) - pd.Timestamp(0)).dt.total_seconds().astype("int64")
    kinds = ", ".join(f"Kind {number}" for number in range(10))
    texts = {f"b{number}": f"Café b{number}, 3.5 stars, 22 reviews, {kinds}" for number in range(19) if number != 1}
    texts["b0"] = "Café b0, 3.5 stars, 22 reviews"
    texts["b2"] = "Café b2, Bars, Nightlife"
    texts["b3"] = texts["b3"].replace("3.5", "4")
    pd.testing.assert_frame_equal(frame_of(read.rows), plainly_filtered(frame, texts, (1, 25, 75)))
    assert read.counts["malformed_review_lines"] == len(faults)
    assert frame_of(read.rows).groupby("user_id").size().max() == 75


def test_yelp_s_archive_has_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "yelp_dataset.tar").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"lacks yelp_academic.*Yelp Open Dataset.*unpack yelp_dataset.tar"):
        load_interactions("yelp", folder=tmp_path)
    with pytest.raises(StorageError, match=r"unpack yelp_dataset.tar"):
        load_interactions("yelp", folder=tmp_path / "yelp_dataset.tar")


def test_a_publisher_s_file_given_as_interactions(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    with pytest.raises(InteractionsError, match=r"need the columns .*file of amazon-movies, name that, and folder="):
        load_interactions(tmp_path / "Movies_and_TV.jsonl.gz")
    archive = write_zip(tmp_path / "ml-25m.zip", {"ratings.csv": b""})
    with pytest.raises(StorageError, match=r"unknown ending.*file of movielens-25m, name that.*--folder"):
        load_interactions(archive)
