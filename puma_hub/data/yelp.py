"""The Yelp Open Dataset: filters and item texts of the paper, data section."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from puma_hub.data.raw_files import RawLines, RawRows, require
from puma_hub.data.reviews import Id, ReviewFilters, Stars, filtered

_PUBLISHER = "the page of the Yelp Open Dataset (the archive of JSON files, unpacked)"
_CATEGORIES = 10
_START, _SECOND = datetime(1970, 1, 1), timedelta(seconds=1)


class _Review(msgspec.Struct):
    user_id: Id
    item_id: Id = msgspec.field(name="business_id")
    rating: Stars = msgspec.field(name="stars")
    date: datetime

    @property
    def time(self) -> int:
        """Seconds since 1970, the date taken as in UTC."""
        return (self.date.replace(tzinfo=None) - _START) // _SECOND


class _Business(msgspec.Struct):
    item_id: Id = msgspec.field(name="business_id")
    name: str | None = None
    stars: float | None = None
    review_count: int | None = None
    categories: str | None = None


def read_yelp(
    folder: str | Path,
    *,
    min_user_reviews: int = 25,
    max_user_reviews: int = 75,
    max_malformed: float = 0.01,
) -> RawRows:
    """Read ``yelp_academic_dataset_review.json`` and ``..._business.json``, also compressed, from ``folder``.

    An item's text is the business's name, stars, review count and up to 10 categories. A repeated review (same user,
    business, stars and time) counts once.

    Args:
        min_user_reviews: keep users with at least so many reviews of businesses with a name.
        max_user_reviews: keep so many of each user's reviews, the most recent.
        max_malformed: the share of malformed lines in a file that is skipped and counted.

    Raises:
        StorageError: a file is missing or cannot be read.
        InteractionsError: a file is damaged, too many lines are malformed, or the filters leave nothing.
    """
    filters = ReviewFilters(1, min_user_reviews, max_user_reviews)
    names = ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")
    review_file, business_file = require(Path(folder), names, _PUBLISHER)
    reviews: RawLines[_Review] = RawLines(review_file, msgspec.json.Decoder(_Review).decode, max_malformed)
    items: RawLines[_Business] = RawLines(business_file, msgspec.json.Decoder(_Business).decode, max_malformed)
    return RawRows(*filtered(reviews, items, _texts(items), filters))


def _texts(businesses: RawLines[Any]) -> Iterator[tuple[str, str | None]]:
    for _, business in businesses:
        yield business.item_id, _text(business)


def _text(business: _Business) -> str | None:
    """Such as ``Blue Door, 4.5 stars, 31 reviews, Bars, Nightlife``; None without a name."""
    name = " ".join((business.name or "").split())
    if not name:
        return None
    parts = [name]
    if business.stars is not None:
        parts.append(f"{business.stars:g} stars")
    if business.review_count is not None:
        parts.append(f"{business.review_count} reviews")
    categories = [part.strip() for part in (business.categories or "").split(",")]
    return ", ".join(parts + [part for part in categories if part][:_CATEGORIES])
