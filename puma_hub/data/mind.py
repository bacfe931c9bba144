"""MIND, clicks on news headlines (Wu et al., 2020): filters, caps and histories of the paper, data section.

Two passes over the impressions: the first counts each user's clicks and other headlines, the second reads those of the
users who are kept.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from puma_hub.data.held_out import with_description
from puma_hub.data.mind_rows import Headlines, Shown, draw_rows, interactions, rows_within
from puma_hub.data.raw_files import RawLines, RawRows, require
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError

_PUBLISHER = "the page of MIND, the MIcrosoft News Dataset (the archives of train and dev, large or small)"
_FILES = ("behaviors.tsv", "news.tsv")
_PART = re.compile(r"(?P<set>MIND[a-z]*)?[-_]?(?P<part>train|dev|valid|validation)(\.zip)?", re.IGNORECASE)
_SPLITS = {"train": "train", "dev": "validation", "valid": "validation", "validation": "validation"}
_COLUMNS = 5  # of behaviors.tsv: impression, user, time, history, headlines shown
_TITLE = 3  # number of that column in news.tsv
_TIME = re.compile(
    r"(?P<date>\d{1,2}/\d{1,2}/\d{4}) "
    r"(?P<hour>0?[1-9]|1[0-2]):(?P<minute>[0-5]?\d):(?P<second>[0-5]?\d) (?P<half>AM|PM)"
)
_SHOWN = re.compile(r"\s*(\S+-[01](\s+|$))*")  # one way to match a line, so its time is linear


@dataclass(frozen=True)
class MindFilters:
    """Which users and rows are kept; a shown headline is one impression.

    Args:
        min_history: impressions after at least so many clicked headlines.
        min_train_clicks: users with at least so many clicks in train.
        min_train_impressions: users with at least so many headlines shown in train.
        max_train_rows: so many rows a user in train, clicks at most half of it.
        max_validation_rows: the same in validation.
        min_validation_rows: users with at least so many rows in validation.
    """

    min_history: int
    min_train_clicks: int
    min_train_impressions: int
    max_train_rows: int
    max_validation_rows: int
    min_validation_rows: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < name.startswith("max_"):
                raise ConfigurationError(f"{name} must be a whole number of at least 0, maxima 1, got {value!r}")

    def keep(self, train: Tally, validation: Tally) -> bool:
        """Whether a user of these counts is kept."""
        rows = rows_within(validation.clicks, validation.others, self.max_validation_rows)
        return (
            train.clicks >= self.min_train_clicks
            and train.clicks + train.others >= self.min_train_impressions
            and rows >= self.min_validation_rows
        )

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self).items())


class Tally(NamedTuple):
    """How many headlines a user clicked in a split, and how many were shown and not clicked."""

    clicks: int
    others: int


class Impression(NamedTuple):
    """A line of behaviors.tsv: ``past`` and ``shown`` hold ids with blanks between; time in seconds since 1970."""

    user_id: str
    time: int
    past: str
    shown: str

    def history(self, headlines: Headlines) -> list[int]:
        """Places of the headlines that were clicked before; those without a title are left out, as below."""
        place = headlines.place
        return [place[news_id] for news_id in self.past.split() if news_id in place]

    def entries(self, headlines: Headlines) -> tuple[list[int], list[int]]:
        """Places of the headlines that were shown, and which were clicked (1) or not (0)."""
        place = headlines.place
        known = [entry for entry in self.shown.split() if entry[:-2] in place]
        return [place[entry[:-2]] for entry in known], [int(entry[-1]) for entry in known]


def read_mind(
    folder: str | Path,
    *,
    min_history: int = 7,
    min_train_clicks: int = 4,
    min_train_impressions: int = 20,
    max_train_rows: int = 60,
    max_validation_rows: int = 20,
    min_validation_rows: int = 10,
    max_users: int = 50_000,
    history_titles: int = 5,
    history_characters: int = 512,
    sampling_seed: int = 42,
    max_malformed: float = 0.01,
) -> RawRows:
    """Read ``behaviors.tsv`` and ``news.tsv`` of train and dev as ``train`` and ``validation``.

    ``folder`` holds the two parts as folders or as zip archives, such as ``MINDlarge_train`` and ``MINDlarge_dev.zip``.
    An item's text is its headline. Users have impressions in both parts, and each row a part of the reader's history.

    Args:
        min_history: keep impressions after at least so many clicked headlines.
        min_train_clicks: keep users with at least so many clicks in train.
        min_train_impressions: keep users with at least so many headlines shown in train.
        max_train_rows: draw so many of a user's rows in train, clicks at most half of this number.
        max_validation_rows: the same in validation.
        min_validation_rows: keep users with at least so many rows in validation.
        max_users: draw so many of the users who are left.
        history_titles: show so many titles of the history, drawn for each row, in their order.
        history_characters: leave out the oldest of these where they are longer together.
        sampling_seed: of all that is drawn.
        max_malformed: the share of malformed lines in a file that is skipped and counted.

    Raises:
        StorageError: a part or a file is missing or cannot be read.
        InteractionsError: a file is damaged, too many lines are malformed, or the filters leave nothing.
    """
    filters = MindFilters(
        min_history, min_train_clicks, min_train_impressions, max_train_rows, max_validation_rows, min_validation_rows
    )
    for name, value in {"max_users": max_users, "history_titles": history_titles}.items():
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}")
    files = {split: require(place, _FILES, _PUBLISHER) for split, place in _parts(Path(folder)).items()}
    news = {split: RawLines(of[1], _headline, max_malformed) for split, of in files.items()}
    headlines = _headlines(news.values())
    behaviors = {split: RawLines(of[0], _impression, max_malformed) for split, of in files.items()}
    generator = np.random.default_rng(sampling_seed)
    users = _users(behaviors, headlines, filters)
    if len(users) > max_users:
        users = sorted(generator.choice(users, max_users, replace=False).tolist())
    numbers = {user: number for number, user in enumerate(users)}
    rows: dict[str, Dataset] = {}
    for split, cap in (("train", max_train_rows), ("validation", max_validation_rows)):
        shown = _shown(behaviors[split], headlines, numbers, min_history)
        drawn = draw_rows(shown, cap, generator)
        options = {"titles": history_titles, "characters": history_characters, "generator": generator}
        found = interactions(shown, drawn, users, headlines, **options)  # type: ignore[arg-type]
        rows[split] = with_description(found, f"{filters}, max_users={max_users}, sampling_seed={sampling_seed}")
    return RawRows(rows, _counts(behaviors, news))


def _headlines(files: Iterable[RawLines[tuple[str, str]]]) -> Headlines:
    headlines = Headlines()
    for lines in files:
        for _, (news_id, title) in lines:
            headlines.add(news_id, title)
    return headlines


def _parts(folder: Path) -> dict[str, Path]:
    """Where train and validation are."""
    if folder.is_file() or _PART.fullmatch(folder.name):
        folder = folder.parent  # one of the parts was given
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir() if folder.is_dir() else []):  # a folder comes before the archive of its name
        match = _PART.fullmatch(path.name)
        if match and (path.is_dir() or path.suffix.lower() == ".zip"):
            kind = (match["set"] or "").lower()
            found.setdefault(kind, {}).setdefault(_SPLITS[match["part"].lower()], path)
    whole = [parts for parts in found.values() if len(parts) == 2]
    if len(whole) > 1:
        names = sorted(path.name for parts in whole for path in parts.values())
        raise ConfigurationError(f"{folder} holds several sets: {', '.join(names)}; keep each in a folder of its own")
    if not whole:
        there = ", ".join(path.name for parts in found.values() for path in parts.values()) or "none"
        raise StorageError(
            f"{folder} needs both parts, as folders or zip archives named as MINDlarge_train and MINDlarge_dev, found "
            f"{there}; they are to be had from {_PUBLISHER}. Name their folder with folder= (--folder)"
        )
    return {split: whole[0][split] for split in ("train", "validation")}


def _headline(line: bytes) -> tuple[str, str]:
    """Id and title of a line of news.tsv."""
    cells = line.decode().split("\t", _TITLE + 1)
    if len(cells) <= _TITLE or not cells[0]:
        raise ValueError(f"it has {len(cells)} columns, id and title are the first and the fourth")
    return cells[0], " ".join(cells[_TITLE].split())


def _impression(line: bytes) -> Impression:
    cells = line.decode().split("\t")
    if len(cells) != _COLUMNS or not cells[1]:
        raise ValueError(f"it has {len(cells)} columns in place of {_COLUMNS}, or no user")
    _, user_id, time, past, shown = cells
    if not _SHOWN.fullmatch(shown):
        raise ValueError("a headline is not marked with -0 or -1; the test part has no clicks")
    return Impression(user_id, _seconds(time), past, shown)


def _seconds(text: str) -> int:
    """Of a time such as ``11/15/2019 8:55:22 AM``, taken as in UTC."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("its time is not such as 11/15/2019 8:55:22 AM")
    hour, minute, second = (int(match[name]) for name in ("hour", "minute", "second"))
    return _day(match["date"]) + (hour % 12 + 12 * (match["half"] == "PM")) * 3600 + minute * 60 + second


@cache
def _day(date: str) -> int:
    month, day, year = (int(part) for part in date.split("/"))
    return calendar.timegm(datetime.date(year, month, day).timetuple())  # ValueError for a day the calendar lacks


def _users(behaviors: Mapping[str, RawLines[Impression]], headlines: Headlines, filters: MindFilters) -> list[str]:
    """Users that the filters keep, sorted; validation is counted first, since fewer users are in it."""
    validation = _tallies(behaviors["validation"], headlines, filters.min_history)
    train = _tallies(behaviors["train"], headlines, filters.min_history, validation)
    kept = sorted(user for user, tally in train.items() if filters.keep(tally, validation[user]))
    if not kept:
        raise InteractionsError(
            f"no user is left: {len(validation)} have impressions after {filters.min_history} clicked headlines in "
            f"validation, {len(train)} of them in train too, and none passes {filters}; ask for less"
        )
    return kept


def _tallies(
    behaviors: RawLines[Impression], headlines: Headlines, min_history: int, among: Collection[str] | None = None
) -> dict[str, Tally]:
    """What was shown to each user."""
    found: dict[str, Tally] = {}
    for _, one in behaviors:
        if (among is not None and one.user_id not in among) or len(one.history(headlines)) < min_history:
            continue
        _, new = one.entries(headlines)
        if new:
            clicks, others = found.get(one.user_id, (0, 0))
            found[one.user_id] = Tally(clicks + sum(new), others + len(new) - sum(new))
    return found


def _shown(behaviors: RawLines[Impression], headlines: Headlines, users: Mapping[str, int], min_history: int) -> Shown:
    """What was shown to these users, after as many clicks as are asked for."""
    shown = Shown()
    for _, one in behaviors:
        if one.user_id in users and len(history := one.history(headlines)) >= min_history:
            shown.add(users[one.user_id], *one.entries(headlines), one.time, history)
    return shown


def _counts(
    behaviors: Mapping[str, RawLines[Impression]], news: Mapping[str, RawLines[tuple[str, str]]]
) -> dict[str, int]:
    counts = {}
    for split in behaviors:
        for name, lines in (("behavior", behaviors[split]), ("news", news[split])):
            counts[f"{split}_{name}_lines"] = lines.lines
            counts[f"malformed_{split}_{name}_lines"] = lines.malformed
    return counts
