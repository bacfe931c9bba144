"""MovieLens from the publisher's archives, against the same ratings in plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from puma_hub import RatingTask
from puma_hub.data import load_interactions
from puma_hub.data.load import read_interactions
from puma_hub.data.movielens import ITEMS_FILE, RATINGS_FILE
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from tests.raw_data import (
    MOVIELENS_FLAGS,
    MOVIELENS_ITEMS,
    changed,
    movielens_files,
    movielens_ratings,
    write_zip,
)

RELEASES = ["ml-100k", "ml-1m", "ml-25m", "ml-32m", "ml-latest-small"]
TEXTS = {number: ", ".join([title, *kinds]) for number, title, kinds in MOVIELENS_ITEMS}


def expected(release: str) -> list[tuple[str, str, str, float, int]]:
    ratings = movielens_ratings(1.0 if release in ("ml-100k", "ml-1m") else 0.5)
    ordered = sorted(ratings, key=lambda row: (row[0], row[3], row[1]))
    return [(str(u), str(i), TEXTS[i], rating, time) for u, i, rating, time in ordered]


def found(rows: Any) -> list[tuple[str, str, str, float, int]]:
    return list(zip(*(rows[name][:] for name in ("user_id", "item_id", "item_text", "label", "timestamp"))))


def read(release: str, folder: Path, **options: Any) -> Any:
    return read_interactions(f"movielens-{release[3:]}", folder=folder, **options)


@pytest.mark.parametrize("give", ["zip", "beside", "folder", "parent", "file", "windows"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_in_every_shape(tmp_path: Path, release: str, give: str) -> None:
    files = movielens_files(release, "\r\n" if give == "windows" else "\n")
    inner = tmp_path / release
    place = tmp_path
    if give in ("zip", "beside"):
        archive = write_zip(tmp_path / f"{release}.zip", {**files, "README.txt": b"terms"}, f"{release}/")
        place = archive if give == "zip" else tmp_path
    else:
        inner.mkdir()
        for name, content in files.items():
            (inner / name).write_bytes((b"\xef\xbb\xbf" if give == "windows" and name != "u.item" else b"") + content)
        place = {"folder": inner, "file": inner / next(iter(files))}.get(give, tmp_path)
        if give == "windows" and release == "ml-1m":  # no byte order mark in a file that is not UTF-8
            changed(inner / "movies.dat", lambda data: data.removeprefix(b"\xef\xbb\xbf"))
    result = read(release, place, max_malformed=0)
    assert found(result.rows) == expected(release)
    assert result.counts["rating_lines"] == len(expected(release)) and result.counts["movie_lines"] == 4


def test_the_archive_has_the_rows_of_the_fetched_files(tmp_path: Path) -> None:
    write_zip(tmp_path / "ml-100k.zip", movielens_files("ml-100k"), "ml-100k/")
    published = read("ml-100k", tmp_path).rows
    ratings = pd.DataFrame(movielens_ratings(), columns=["user_id", "movie_id", "rating", "timestamp"])
    flags = {kind: [int(kind in kinds) for _, _, kinds in MOVIELENS_ITEMS] for kind in MOVIELENS_FLAGS}
    items = pd.DataFrame({"movie_id": list(TEXTS), "movie_title": [title for _, title, _ in MOVIELENS_ITEMS], **flags})
    ratings.to_parquet(tmp_path / RATINGS_FILE)
    items.to_parquet(tmp_path / ITEMS_FILE)
    fetched = read("ml-100k", tmp_path).rows
    assert found(published) == found(fetched)


def test_half_stars_are_checked_against_the_task(tmp_path: Path) -> None:
    write_zip(tmp_path / "ml-25m.zip", movielens_files("ml-25m"), "ml-25m/")
    with pytest.raises(InteractionsError, match="outside the task"):
        load_interactions("movielens-25m", folder=tmp_path, task=RatingTask())
    halves = RatingTask(values=tuple(step / 2 for step in range(1, 11)))
    splits = load_interactions("movielens-25m", folder=tmp_path, task=halves, users=5, rows_per_user=3)
    assert len(set(splits["train"]["user_id"])) == 5


@pytest.mark.parametrize("release", RELEASES)
def test_malformed_lines_and_unknown_films(tmp_path: Path, release: str) -> None:
    files = movielens_files(release)
    ratings, movies = files
    separator = {"u.data": b"\t", "ratings.dat": b"::"}.get(ratings, b",")
    faults = [[b"1", b"2"], [b"x", b"1", b"3", b"9"], [b"1", b"1", b"", b"9"], [b"1", b"1", b"3", b"soon"]]
    lines = [separator.join(cells) + b"\n" for cells in faults]
    files[ratings] += b"".join(lines) + separator.join([b"7", b"99", b"4", b"874000000"]) + b"\n"
    files[movies] += b"nonsense\n"
    write_zip(tmp_path / f"{release}.zip", files, f"{release}/")
    result = read(release, tmp_path, max_malformed=0.5)
    assert found(result.rows) == expected(release)
    assert result.counts["malformed_rating_lines"] == 4 and result.counts["malformed_movie_lines"] == 1
    assert result.counts["ratings_of_unknown_movies"] == 1
    with pytest.raises(InteractionsError, match=r"1 of 5 lines are malformed, more than .*max_malformed=0.01"):
        read(release, tmp_path)


def test_what_is_missing_or_wrong(tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_bytes(movielens_files("ml-1m")["ratings.dat"])
    with pytest.raises(StorageError, match=r"has ratings.dat, but not movies.dat; .*ml-1m.zip on the MovieLens page"):
        load_interactions("movielens-1m", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="is ml-1m, asked for is ml-25m; name movielens-1m"):
        load_interactions("movielens-25m", folder=tmp_path / "ml-1m")
    with pytest.raises(StorageError, match=r"u.data.*puma-hub fetch movielens-100k"):
        load_interactions("movielens-100k", folder=tmp_path)
    (tmp_path / "ml-25m.zip").write_bytes(b"PK not really")
    with pytest.raises(StorageError, match="is no zip archive, or is cut short"):
        load_interactions("movielens-25m", folder=tmp_path)
    files = {"ratings.csv": b"user,item\n1,2\n", "movies.csv": movielens_files("ml-25m")["movies.csv"]}
    write_zip(tmp_path / "ml-32m.zip", files)
    with pytest.raises(InteractionsError, match=r"is no file of ratings: .*userId"):
        load_interactions("movielens-32m", folder=tmp_path)


def test_a_damaged_archive(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "ml-25m.zip", movielens_files("ml-25m"), "ml-25m/")
    changed(archive, lambda data: data[:80] + bytes(255 - byte for byte in data[80:120]) + data[120:])
    with pytest.raises(InteractionsError, match=r"ratings.csv in .*ml-25m.zip is cut short or damaged"):
        load_interactions("movielens-25m", folder=tmp_path)
