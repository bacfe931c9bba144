"""Amazon Reviews 2023, one category at a time (Hou et al., 2024): filters of the paper, data section."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from puma_hub.data.raw_files import RawFile, RawLines, RawRows, require
from puma_hub.data.reviews import Id, Moment, ReviewFilters, Stars, filtered

_PUBLISHER = "the page of Amazon Reviews 2023 by the McAuley Lab (User Reviews, and Item Metadata of the category)"


class _Review(msgspec.Struct):
    user_id: Id
    item_id: Id = msgspec.field(name="parent_asin")  # the metadata goes by the parent of an item's variants
    rating: Stars
    time: Moment = msgspec.field(name="timestamp")  # milliseconds since 1970


class _Item(msgspec.Struct):
    item_id: Id = msgspec.field(name="parent_asin")
    title: str | None = None
    categories: list[str] | None = None


def read_amazon(
    folder: str | Path,
    *,
    category: str,
    categories: bool = False,
    min_item_reviews: int = 10,
    min_user_reviews: int = 20,
    max_user_reviews: int = 85,
    max_malformed: float = 0.01,
) -> RawRows:
    """Read ``<category>.jsonl`` and ``meta_<category>.jsonl``, also compressed, from ``folder`` or folders in it.

    Items are told apart by ``parent_asin``. An item's text is its title. A repeated review (same user, item, rating and
    time) counts once; several reviews of an item by one user are kept.

    Args:
        categories: add the item's categories to its text.
        min_item_reviews: keep titled items with at least so many reviews.
        min_user_reviews: keep users with at least so many reviews of these items.
        max_user_reviews: keep so many of each user's reviews, the most recent.
        max_malformed: the share of malformed lines in a file that is skipped and counted.

    Raises:
        StorageError: a file is missing or cannot be read.
        InteractionsError: a file is damaged, too many lines are malformed, or the filters leave nothing.
    """
    filters = ReviewFilters(min_item_reviews, min_user_reviews, max_user_reviews)
    names = (f"{category}.jsonl", f"meta_{category}.jsonl")
    review_file, item_file = require(Path(folder), names, _PUBLISHER)
    reviews: RawLines[_Review] = RawLines(review_file, msgspec.json.Decoder(_Review).decode, max_malformed)
    items = _items(item_file, max_malformed)
    return RawRows(*filtered(reviews, items, _texts(items, categories), filters))


def _items(file: RawFile, max_malformed: float) -> RawLines[_Item]:
    return RawLines(file, msgspec.json.Decoder(_Item).decode, max_malformed)


def _texts(items: RawLines[_Item], categories: bool) -> Iterator[tuple[str, str | None]]:
    for _, item in items:
        title = " ".join((item.title or "").split())
        if title and categories and item.categories:
            title = f"{title}, {', '.join(item.categories)}"
        yield item.item_id, title or None
