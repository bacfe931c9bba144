"""Files like those of MovieLens-100K, small and made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from puma_hub.data.movielens import ITEMS_FILE, RATINGS_FILE

USERS, ITEMS = 60, 30


def write_movielens(folder: Path, title: str = "Film {}") -> Path:
    """User u rated the items up to 29 - u // 2, so item 0 has the most ratings."""
    pairs = [(user, item) for user in range(USERS) for item in range(ITEMS - user // 2)]
    generator = np.random.default_rng(0)
    pd.DataFrame(
        {
            "user_id": [user for user, _ in pairs],
            "movie_id": [item for _, item in pairs],
            "rating": generator.integers(1, 6, len(pairs)),
            "timestamp": generator.integers(0, 10**6, len(pairs)),
        }
    ).to_parquet(folder / RATINGS_FILE)
    titles = {"movie_id": range(ITEMS), "movie_title": [title.format(item) for item in range(ITEMS)]}
    pd.DataFrame(titles | {"Action": [1] * ITEMS}).to_parquet(folder / ITEMS_FILE)
    return folder
