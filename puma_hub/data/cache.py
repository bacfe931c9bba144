"""The cache of fetched data and models."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

CACHE_VARIABLE = "PUMA_HUB_CACHE"


def cache_folder() -> Path:
    """``$PUMA_HUB_CACHE``, or ``puma_hub`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else user_cache_path("puma_hub", appauthor=False)


def data_folder(name: str) -> Path:
    """The folder of a fetched data set."""
    return cache_folder() / "data" / name


def model_folder(name: str) -> Path:
    """The folder of a fetched model."""
    return cache_folder() / "models" / name
