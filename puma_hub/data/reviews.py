"""Review sites' files as interactions: filtered by how often items and users come, in bounded memory.

Two passes. The first keeps 36 bytes a review: ids as 64-bit hashes, rating, time and line number. The filters work on
these. The second reads the ids of the users who are left. Two of ten million ids share a hash with a chance of 3 in a
million.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import datasets
import msgspec
import numpy as np
import pyarrow as pa

from puma_hub.data.held_out import with_description
from puma_hub.data.raw_files import RawLines
from puma_hub.data.rows import from_table
from puma_hub.errors import ConfigurationError, InteractionsError

Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
Stars: TypeAlias = Annotated[float, msgspec.Meta(ge=1, le=5)]
Moment: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


@dataclass(frozen=True)
class ReviewFilters:
    """Which reviews are kept, in this order.

    Args:
        min_item_reviews: items with at least so many reviews, and a text.
        min_user_reviews: users with at least so many reviews of these items.
        max_user_reviews: so many of each user's reviews, the most recent.
    """

    min_item_reviews: int
    min_user_reviews: int
    max_user_reviews: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.max_user_reviews < self.min_user_reviews:
            raise ConfigurationError(
                f"max_user_reviews must be at least min_user_reviews, got {self.max_user_reviews} and "
                f"{self.min_user_reviews}"
            )

    def __str__(self) -> str:
        return (
            f"items with {self.min_item_reviews} or more reviews, users with {self.min_user_reviews} or more, the "
            f"{self.max_user_reviews} most recent of each user"
        )


@dataclass(frozen=True)
class Reviews:
    """All distinct reviews of a file, in its order: arrays ``(N,)``.

    ``user`` and ``item`` int64 hashes, ``label`` float64, ``time`` int64, ``line`` uint32 numbers of lines, from 0.
    """

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray
    line: np.ndarray

    @classmethod
    def read(cls, reviews: Iterable[tuple[int, Any]]) -> Reviews:
        """Of numbered records with ``user_id``, ``item_id``, ``rating`` and ``time``."""
        user, item, label, time, line = array("q"), array("q"), array("d"), array("q"), array("I")
        for number, review in reviews:
            user.append(hash(review.user_id))
            item.append(hash(review.item_id))
            label.append(review.rating)
            time.append(review.time)
            line.append(number)
        return cls(*(np.frombuffer(part, dtype=part.typecode) for part in (user, item, label, time, line)))

    def take(self, rows: np.ndarray) -> Reviews:
        """The reviews ``rows``, numbers or a mask."""
        return Reviews(self.user[rows], self.item[rows], self.label[rows], self.time[rows], self.line[rows])

    def distinct(self) -> Reviews:
        """Without repeats: the same user, item, rating and time as an earlier review."""
        keys = (self.label, self.time, self.item, self.user)
        order = np.lexsort(keys)
        repeats = np.ones(max(0, len(order) - 1), dtype=bool)
        for key in keys:
            values = key[order]
            repeats &= values[1:] == values[:-1]
        if not repeats.any():
            return self
        kept = np.ones(len(order), dtype=bool)
        kept[order[1:][repeats]] = False
        return self.take(kept)

    def items_with(self, least: int) -> set[int]:
        """Hashes of the items with at least so many reviews."""
        items, counts = np.unique(self.item, return_counts=True)
        return set(items[counts >= least].tolist())

    def of_items(self, items: Iterable[int]) -> Reviews:
        """The reviews of these items."""
        wanted = np.sort(np.fromiter(items, np.int64))
        if not len(wanted):
            return self.take(np.zeros(0, np.int64))
        place = np.minimum(np.searchsorted(wanted, self.item), len(wanted) - 1)
        return self.take(wanted[place] == self.item)

    def of_users_with(self, least: int, most: int) -> Reviews:
        """The ``most`` latest reviews of each user with at least ``least``; of those at one time, the later lines."""
        _, which, counts = np.unique(self.user, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[which] >= least)
        order = rows[np.lexsort((self.time[rows], self.user[rows]))]
        ends = np.cumsum(np.where(counts >= least, counts, 0))[which[order]]
        return self.take(np.sort(order[ends - np.arange(len(order)) <= most]))


@dataclass(frozen=True)
class Items:
    """Items by the hash of their id: the place in ``ids`` and ``texts``."""

    place: dict[int, int]
    ids: list[str]
    texts: list[str]

    @classmethod
    def read(cls, records: Iterable[tuple[str, str | None]], wanted: set[int]) -> Items:
        """Of ids and texts, those whose hash is wanted; an item without a text is left out, of several the first."""
        found = cls({}, [], [])
        for item_id, text in records:
            key = hash(item_id)
            if text and key in wanted and key not in found.place:
                found.place[key] = len(found.ids)
                found.ids.append(item_id)
                found.texts.append(text)
        return found

    def places(self, items: np.ndarray) -> pa.Array:
        """The places of items ``(N,)`` given by their hashes, all of which are known."""
        keys, which = np.unique(items, return_inverse=True)
        return pa.array(np.array([self.place[key] for key in keys.tolist()], np.int64)[which])


def filtered(
    lines: RawLines[Any], items: RawLines[Any], texts: Iterator[tuple[str, str | None]], filters: ReviewFilters
) -> tuple[datasets.Dataset, dict[str, int]]:
    """The reviews that the filters keep, as interactions in the order of the file; and what was found besides.

    Args:
        lines: records with ``user_id``, ``item_id``, ``rating`` and ``time`` (int).
        items: the file of items.
        texts: ids and texts of its items.

    Raises:
        InteractionsError: nothing is left; the message says at which filter.
    """
    read = Reviews.read(lines)
    counts = {"review_lines": lines.lines, "malformed_review_lines": lines.malformed}
    reviews = read.distinct()
    counts["repeated_reviews"] = len(read.user) - len(reviews.user)
    del read
    frequent = reviews.items_with(filters.min_item_reviews)
    found = Items.read(texts, frequent)
    counts |= {"item_lines": items.lines, "malformed_item_lines": items.malformed}
    counts["items_without_text"] = len(frequent) - len(found.ids)
    if not found.ids:
        raise InteractionsError(
            f"no item is left: {len(frequent)} have min_item_reviews={filters.min_item_reviews} or more reviews in "
            f"{lines.file}, and none of them has a text in {items.file}; ask for fewer, or check that the files belong "
            "together"
        )
    reviews = reviews.of_items(found.place)
    kept = reviews.of_users_with(filters.min_user_reviews, filters.max_user_reviews)
    if not len(kept.user):
        most = int(np.unique(reviews.user, return_counts=True)[1].max())
        raise InteractionsError(
            f"no user is left: none has min_user_reviews={filters.min_user_reviews} or more reviews of the "
            f"{len(found.ids)} items, the most that one has are {most}; ask for fewer"
        )
    return with_description(_interactions(kept, found, _names(kept, lines)), str(filters)), counts


def _names(reviews: Reviews, lines: RawLines[Any]) -> pa.Array:
    """The user ids of the reviews, read from one line of each user."""
    _, first, which = np.unique(reviews.user, return_index=True, return_inverse=True)
    numbers = reviews.line[first]
    order = np.argsort(numbers)
    wanted = iter(numbers[order].tolist())
    names, following = [], next(wanted)
    for number, line in enumerate(lines.file.lines()):
        if number == following:
            names.append(lines.parse(line).user_id)
            following = next(wanted, -1)
            if following < 0:
                break
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return pa.array(names, pa.string()).take(pa.array(place[which]))


def _interactions(reviews: Reviews, items: Items, users: pa.Array) -> datasets.Dataset:
    places = items.places(reviews.item)
    return from_table(
        pa.table(
            {
                "user_id": users,
                "item_id": pa.array(items.ids, pa.string()).take(places),
                "item_text": pa.array(items.texts, pa.string()).take(places),
                "label": pa.array(reviews.label),
                "timestamp": pa.array(reviews.time),
            }
        )
    )
