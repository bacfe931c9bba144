"""Where fetched data and models are kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "PUMA_HUB_CACHE"


def cache_folder() -> Path:
    """``$PUMA_HUB_CACHE``, or ``puma_hub`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "puma_hub"


def data_folder(name: str) -> Path:
    """The folder of a fetched data set."""
    return cache_folder() / "data" / name


def model_folder(name: str) -> Path:
    """The folder of a fetched model."""
    return cache_folder() / "models" / name
