"""Which impressions of MIND become rows, with which headlines of the reader's history."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.rows import from_table

_JOINT = len("; ")  # between two titles, as templates join them
_ROWS = 100_000  # made at once: Arrow's lists have 32-bit offsets


@dataclass(frozen=True)
class Headlines:
    """Headlines with a title: their place by id, and ``ids`` and ``titles`` in that order."""

    place: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def add(self, news_id: str, title: str) -> None:
        if title and news_id not in self.place:
            self.place[news_id] = len(self.ids)
            self.ids.append(news_id)
            self.titles.append(title)


@dataclass(frozen=True)
class Shown:
    """Headlines shown to users, one entry each: numbers of user, headline and history, click (0 or 1), time in seconds.

    ``histories``: places of headlines, the oldest first. Within a split of MIND a user's history stays the same.
    """

    user: array[int] = field(default_factory=lambda: array("i"))
    headline: array[int] = field(default_factory=lambda: array("i"))
    history: array[int] = field(default_factory=lambda: array("i"))
    click: array[int] = field(default_factory=lambda: array("b"))
    time: array[int] = field(default_factory=lambda: array("q"))
    histories: list[array[int]] = field(default_factory=list)
    latest: dict[int, int] = field(default_factory=dict)

    def add(self, user: int, headlines: Sequence[int], clicks: Sequence[int], time: int, history: list[int]) -> None:
        """One impression; a history equal to the user's latest one is kept once."""
        past = array("i", history)
        number = self.latest.get(user)
        if number is None or self.histories[number] != past:
            self.latest[user] = number = len(self.histories)
            self.histories.append(past)
        count = len(headlines)
        self.user.extend([user] * count)
        self.headline.extend(headlines)
        self.history.extend([number] * count)
        self.click.extend(clicks)
        self.time.extend([time] * count)


def rows_within(clicks: int, others: int, cap: int) -> int:
    """How many rows of a user :func:`draw_rows` takes."""
    kept = min(clicks, cap // 2)
    return kept + min(others, cap - kept)


def draw_rows(shown: Shown, cap: int, generator: np.random.Generator) -> np.ndarray:
    """Numbers of at most ``cap`` entries of each user, clicks at most half the cap, drawn at random; in order of time.

    Returns:
        int64 ``(N,)``, user by user.
    """
    user, click, time = _array(shown.user), _array(shown.click), _array(shown.time)
    chance = generator.random(len(user))
    clicks = np.flatnonzero(click == 1)
    clicks = clicks[_rank(user[clicks], chance[clicks]) < cap // 2]
    taken = np.bincount(user[clicks], minlength=int(user.max()) + 1)
    others = np.flatnonzero(click == 0)
    others = others[_rank(user[others], chance[others]) < cap - taken[user[others]]]
    rows = np.concatenate([clicks, others])
    return rows[np.lexsort((rows, time[rows], user[rows]))]


def interactions(
    shown: Shown,
    rows: np.ndarray,
    users: Sequence[str],
    headlines: Headlines,
    *,
    titles: int,
    characters: int,
    generator: np.random.Generator,
) -> datasets.Dataset:
    """The entries ``rows`` as interactions, each with at most ``titles`` of its history's titles, drawn at random.

    The oldest of the drawn titles are left out until the joined text has at most ``characters`` characters.
    """
    user, place = _array(shown.user)[rows], _array(shown.headline)[rows]
    click, time = _array(shown.click)[rows], _array(shown.time)[rows]
    lengths = np.array([len(title) for title in headlines.titles], dtype=np.int64)
    drawn = _drawn(shown.histories, _array(shown.history)[rows], titles, generator)
    drawn = _cut(drawn, lengths, characters)
    names, ids, texts = (pa.array(values, pa.string()) for values in (users, headlines.ids, headlines.titles))
    parts = [
        pa.table(
            {
                "user_id": names.take(pa.array(user[part])),
                "item_id": ids.take(pa.array(place[part])),
                "item_text": texts.take(pa.array(place[part])),
                "label": pa.array(click[part].astype(np.float64)),
                "timestamp": pa.array(time[part]),
                "history": _lists(drawn[part], texts),
            }
        )
        for part in (slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS))
    ]
    return from_table(pa.concat_tables(parts))


def _array(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, dtype=values.typecode) if values else np.zeros(0, values.typecode)


def _rank(groups: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of each key ``(N,)`` among the keys of its group, from 0."""
    order = np.lexsort((keys, groups))
    counts = np.bincount(groups)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - starts[groups[order]]
    return rank


def _drawn(histories: list[array[int]], history: np.ndarray, titles: int, generator: np.random.Generator) -> np.ndarray:
    """Places of drawn headlines ``(N, titles)``, at the right, the oldest first; -1 where there are fewer."""
    drawn = np.full((len(history), titles), -1, dtype=np.int32)
    order = np.argsort(history, kind="stable")
    cuts = np.flatnonzero(np.diff(history[order])) + 1
    for rows in np.split(order, cuts):
        past = _array(histories[history[rows[0]]])
        count = min(titles, len(past))
        chance = generator.random((len(rows), len(past)))
        picked = np.sort(np.argsort(chance, axis=1)[:, :count], axis=1)
        drawn[rows, titles - count :] = past[picked]
    return drawn


def _cut(drawn: np.ndarray, lengths: np.ndarray, characters: int) -> np.ndarray:
    """The drawn headlines without the oldest ones that make the joined titles too long."""
    size = np.where(drawn >= 0, lengths[drawn] + _JOINT, 0)
    joined = np.cumsum(size[:, ::-1], axis=1)[:, ::-1] - _JOINT
    return np.where(joined <= characters, drawn, -1)


def _lists(drawn: np.ndarray, texts: pa.Array) -> pa.ListArray:
    there = drawn >= 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), texts.take(pa.array(drawn[there])))
