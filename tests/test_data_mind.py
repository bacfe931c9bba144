"""MIND from raw files, against plain Python."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puma_hub import ClickTask
from puma_hub.data import load_interactions
from puma_hub.data.load import read_interactions
from puma_hub.data.mind_rows import rows_within
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from tests.raw_data import behavior_line, changed, news_line

TITLES = {f"N{number}": f"Headline {number}: café – “{'x' * (number % 7) * 20}”" for number in range(300)}
TITLES["N5"], TITLES["N6"] = "", "  Two   blanks "
SMALL = {"min_train_clicks": 2, "min_train_impressions": 10, "max_train_rows": 14, "min_validation_rows": 4}


def write_mind(folder: Path, end: str = "\n", start: str = "") -> Path:
    """Users 0 to 29 in train, 10 to 39 in dev; users 3k with short or no history; two lines of each file malformed."""
    generator = np.random.default_rng(7)
    for part, users, day in (("train", range(30), 9), ("dev", range(10, 40), 15)):
        place = folder / f"MINDsmall_{part}"
        place.mkdir()
        lines = []
        for user in users:
            past = [f"N{n}" for n in generator.integers(0, 300, generator.integers(7, 30))]
            if user % 3 == 0:
                past = past[: user % 7]
            for number in range(generator.integers(1, 8)):
                shown = [
                    f"N{n}-{int(generator.random() < 0.3)}"
                    for n in generator.integers(0, 310, generator.integers(1, 9))
                ]
                lines.append(
                    behavior_line(number, f"U{user}", f"11/{day}/2019 {number + 6}:05:0{number} PM", past, shown)
                )
        order = generator.permutation(len(lines))
        lines = [lines[number] for number in order]
        lines[2:2] = ["no columns", behavior_line(1, "U11", "11/31/2019 8:05:00 AM", ["N1"] * 9, ["N2-1"])]
        lines[9:9] = [behavior_line(1, "U11", "11/30/2019 8:05:00 AM", ["N1"] * 9, ["N2"]), ""]
        (place / "behaviors.tsv").write_bytes((start + end.join(lines) + end).encode())
        news = [news_line(news_id, title) for news_id, title in TITLES.items()] + ["N999\tnews"]
        (place / "news.tsv").write_bytes((start + end.join(news) + end).encode())
    return folder


def plain(folder: Path, part: str) -> dict[str, list[tuple[str, int, int, tuple[str, ...]]]]:
    """Of each user the shown headlines, clicks, times and histories, of impressions after 7 titled clicks."""
    found = defaultdict(list)
    for line in (folder / f"MINDsmall_{part}" / "behaviors.tsv").read_text().split("\n"):
        try:
            _, user, moment, past, shown = line.split("\t")
            time = datetime.strptime(moment, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=timezone.utc)
            entries = [(entry[:-2], {"-0": 0, "-1": 1}[entry[-2:]]) for entry in shown.split(" ")]
        except (ValueError, KeyError):
            continue
        titled = tuple(n for n in past.split() if TITLES.get(n, "").strip())
        if len(titled) >= 7:
            found[user] += [
                (n, click, int(time.timestamp()), titled) for n, click in entries if TITLES.get(n, "").strip()
            ]
    return found


def users_of(rows: Any) -> set[str]:
    return set(rows["user_id"][:])


def test_users_and_caps_against_plain_python(tmp_path: Path) -> None:
    write_mind(tmp_path)
    read = read_interactions("mind", folder=tmp_path, max_malformed=0.1, **SMALL)
    train, validation = plain(tmp_path, "train"), plain(tmp_path, "dev")

    def clicks(rows: list[Any]) -> int:
        return sum(row[1] for row in rows)

    def capped(rows: list[Any], cap: int) -> int:
        kept = min(clicks(rows), cap // 2)
        return kept + min(len(rows) - clicks(rows), cap - kept)

    expected = {
        user
        for user in train.keys() & validation.keys()
        if clicks(train[user]) >= 2 and len(train[user]) >= 10 and capped(validation[user], 20) >= 4
    }
    assert isinstance(read.rows, dict)
    assert 4 < len(expected) < 20 and users_of(read.rows["train"]) == users_of(read.rows["validation"]) == expected
    for split, raw, cap in (("train", train, 14), ("validation", validation, 20)):
        by_user = defaultdict(list)
        for row in read.rows[split]:
            by_user[row["user_id"]].append(row)
        for user, rows in by_user.items():
            assert len(rows) == capped(raw[user], cap)
            assert sum(row["label"] for row in rows) == min(clicks(raw[user]), cap // 2)
            assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
            there = {(n, click, time): past for n, click, time, past in raw[user]}
            for row in rows:
                past = [" ".join(TITLES[n].split()) for n in there[row["item_id"], row["label"], row["timestamp"]]]
                assert row["item_text"] == " ".join(TITLES[row["item_id"]].split())
                assert len("; ".join(row["history"])) <= 512 and 3 <= len(row["history"]) <= 5
                places = iter(past)
                assert all(title in places for title in row["history"]), "titles are in the order of the history"
    assert read.counts["malformed_train_behavior_lines"] == 3 and read.counts["malformed_train_news_lines"] == 1
    assert rows_within(40, 10, 60) == 40 and rows_within(2, 100, 60) == 60 and rows_within(50, 100, 60) == 60


def test_draws_differ_between_rows_and_repeat_for_a_seed(tmp_path: Path) -> None:
    write_mind(tmp_path)
    first, again, other = (
        load_interactions("mind", folder=tmp_path, max_malformed=0.1, sampling_seed=seed, task=ClickTask(), **SMALL)
        for seed in (1, 1, 2)
    )
    assert first["train"][:] == again["train"][:] and first["train"][:] != other["train"][:]
    by_user = defaultdict(set)
    for row in first["train"]:
        by_user[row["user_id"]].add(tuple(row["history"]))
    assert max(len(histories) for histories in by_user.values()) > 5


def test_histories_are_cut_at_their_oldest_titles(tmp_path: Path) -> None:
    write_mind(tmp_path)
    splits = load_interactions("mind", folder=tmp_path, max_malformed=0.1, history_characters=150, **SMALL)
    lengths = [len("; ".join(past)) for past in splits["train"]["history"]]
    assert max(lengths) <= 150 and min(len(past) for past in splits["train"]["history"]) < 3
    splits = load_interactions("mind", folder=tmp_path, max_malformed=0.1, history_characters=0, **SMALL)
    assert set(map(len, splits["train"]["history"])) == {0}


def test_users_without_a_history_are_kept_on_request(tmp_path: Path) -> None:
    write_mind(tmp_path)
    options = {**SMALL, "min_history": 0, "min_train_clicks": 0, "min_train_impressions": 0, "min_validation_rows": 1}
    splits = load_interactions("mind", folder=tmp_path, max_malformed=0.1, **options)
    assert "U21" in users_of(splits["train"])
    rows = splits["train"].filter(lambda row: row["user_id"] == "U21")
    assert set(map(len, rows["history"])) == {0}


def test_users_are_drawn(tmp_path: Path) -> None:
    write_mind(tmp_path)
    every = load_interactions("mind", folder=tmp_path, max_malformed=0.1, **SMALL)
    for options in ({"max_users": 3}, {"users": 3}):
        some = load_interactions("mind", folder=tmp_path, max_malformed=0.1, **SMALL, **options)
        assert len(users_of(some["train"])) == 3 and users_of(some["train"]) == users_of(some["validation"])
        assert users_of(some["train"]) < users_of(every["train"])
    with pytest.raises(ConfigurationError, match="split already; rows_per_user"):
        load_interactions("mind", folder=tmp_path, max_malformed=0.1, rows_per_user=3, **SMALL)


@pytest.mark.parametrize("give", ["zips", "inner", "names", "part", "windows"])
def test_where_the_files_may_be(tmp_path: Path, give: str) -> None:
    (tmp_path / "plain").mkdir()
    expected = read_interactions("mind", folder=write_mind(tmp_path / "plain"), max_malformed=0.1, **SMALL)
    place = tmp_path / "other"
    place.mkdir()
    write_mind(place, "\r\n", "\ufeff") if give == "windows" else write_mind(place)
    for part, short in (("train", "train"), ("dev", "valid")):
        folder = place / f"MINDsmall_{part}"
        if give in ("zips", "inner"):
            with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, f"{folder.name if give == 'inner' else '.'}/{file.name}")
                    file.unlink()
            folder.rmdir()
        elif give == "names":
            folder.rename(place / short)
    given = place / "MINDsmall_train" if give == "part" else place
    found = read_interactions("mind", folder=given, max_malformed=0.1, **SMALL)
    assert isinstance(found.rows, dict) and isinstance(expected.rows, dict)
    assert found.counts == expected.counts
    for split, rows in expected.rows.items():
        assert found.rows[split][:] == rows[:]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_mind(tmp_path)
    (tmp_path / "MINDsmall_dev" / "news.tsv").unlink()
    with pytest.raises(StorageError, match=r"MINDsmall_dev has behaviors.tsv, but not news.tsv; .*page of MIND"):
        load_interactions("mind", folder=tmp_path)
    (tmp_path / "MINDsmall_dev").rename(tmp_path / "else")
    with pytest.raises(StorageError, match=r"needs both parts.* found MINDsmall_train; .*page of MIND"):
        load_interactions("mind", folder=tmp_path)
    with pytest.raises(StorageError, match=r"needs both parts.* found none"):
        load_interactions("mind", folder=tmp_path / "nowhere")


def test_two_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_mind(tmp_path)
    for part in ("train", "dev"):
        (tmp_path / f"MINDlarge_{part}").mkdir()
    with pytest.raises(ConfigurationError, match=r"several sets: MINDlarge_dev, MINDlarge_train, MINDsmall_dev"):
        load_interactions("mind", folder=tmp_path)


def test_the_test_part_has_no_clicks(tmp_path: Path) -> None:
    changed(
        write_mind(tmp_path) / "MINDsmall_dev" / "behaviors.tsv",
        lambda data: data.replace(b"-0", b"").replace(b"-1", b""),
    )
    with pytest.raises(InteractionsError, match=r"lines are malformed.*not marked with -0 or -1; the test part has no"):
        load_interactions("mind", folder=tmp_path)


def test_filters_that_leave_nothing(tmp_path: Path) -> None:
    write_mind(tmp_path)
    with pytest.raises(InteractionsError, match=r"no user is left: \d+ have .* 7 clicked .*min_train_clicks=900"):
        load_interactions("mind", folder=tmp_path, max_malformed=0.1, min_train_clicks=900)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_train_rows": 0}, "max_train_rows must be a whole number"),
        ({"min_history": -1}, "min_history must be a whole number"),
        ({"max_users": 0}, "max_users must be at least 1, got 0"),
        ({"history_titles": 0}, "history_titles must be at least 1"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_interactions("mind", folder=write_mind(tmp_path), **options)
