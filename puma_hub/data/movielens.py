"""MovieLens-100K as interactions (Harper and Konstan, 2015; GroupLens terms of use apply)."""

from __future__ import annotations

from pathlib import Path

import datasets

from puma_hub.errors import StorageError

RATINGS_FILE = "MovieLens100k_data.parquet.brotli"
ITEMS_FILE = "MovieLens100k_items.parquet.brotli"
_FIRST_GENRE = "Action"


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
