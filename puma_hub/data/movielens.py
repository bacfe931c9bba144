"""MovieLens-100K as interactions (Harper and Konstan, 2015; GroupLens terms of use apply).

``puma-hub fetch`` gives two parquet files; who has the publisher's archive can use it instead.
"""

from __future__ import annotations

from pathlib import Path

import datasets

from puma_hub.data.movielens_releases import read_release
from puma_hub.data.raw_files import RawRows
from puma_hub.errors import StorageError

RATINGS_FILE = "MovieLens100k_data.parquet.brotli"
ITEMS_FILE = "MovieLens100k_items.parquet.brotli"
_FIRST_GENRE = "Action"


def read_100k(folder: str | Path, *, max_malformed: float = 0.01) -> RawRows:
    """Read the fetched files in ``folder``, or else ``ml-100k.zip``, or the folder in it, as GroupLens publishes it.

    Args:
        max_malformed: of the publisher's files, the share of malformed lines that is skipped and counted.

    Raises:
        StorageError: a file is missing or cannot be read.
        InteractionsError: a file is damaged, or too many lines are malformed.
    """
    fetched = [(Path(folder) / name).is_file() for name in (RATINGS_FILE, ITEMS_FILE)]
    if any(fetched):
        return RawRows(read_movielens(folder))
    try:
        return read_release(folder, release="ml-100k", max_malformed=max_malformed)
    except StorageError as error:
        raise StorageError(f"{error}; or run: puma-hub fetch movielens-100k") from error


def read_movielens(folder: str | Path) -> datasets.Dataset:
    """Read ratings and titles from the two parquet files in ``folder``. An item's text is its title and genres.

    Raises:
        StorageError: a file is missing or cannot be read.
    """
    import pandas as pd

    frames = []
    for name in (RATINGS_FILE, ITEMS_FILE):
        path = Path(folder) / name
        if not path.is_file():
            raise StorageError(f"{path} is missing; run: puma-hub fetch movielens-100k")
        try:
            frames.append(pd.read_parquet(path))
        except (ValueError, OSError) as error:
            raise StorageError(
                f"{path} is not readable parquet; delete it and run: puma-hub fetch movielens-100k"
            ) from error
    ratings, items = frames
    genres = list(items.columns[items.columns.get_loc(_FIRST_GENRE) :])
    names = [", ".join(genre for genre, flag in zip(genres, flags) if flag) for flags in items[genres].to_numpy()]
    texts = [f"{title}, {kinds}" if kinds else str(title) for title, kinds in zip(items["movie_title"], names)]
    text_of = dict(zip(items["movie_id"], texts))
    ratings = ratings.sort_values(["user_id", "timestamp", "movie_id"], kind="stable")
    return datasets.Dataset.from_dict(
        {
            "user_id": [str(user) for user in ratings["user_id"]],
            "item_id": [str(item) for item in ratings["movie_id"]],
            "item_text": [text_of[item] for item in ratings["movie_id"]],
            "label": [float(rating) for rating in ratings["rating"]],
            "timestamp": [int(time) for time in ratings["timestamp"]],
        }
    )
