"""The demo's rows: those of its users, and those of other users for a bank that is trained apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from puma_hub.data import check_interactions, chronological_split, most_recent, of_users, rows_by_user, sample_users
from puma_hub.data.held_out import with_description
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.movielens import read_movielens
from puma_hub.data.rows import codes, column, take_rows
from puma_hub.demo.settings import DemoSettings
from puma_hub.tasks import default_task

_OTHER_SHARE, _FEWEST = 0.25, 10  # other users, of the demo's number and at least


@dataclass(frozen=True)
class DemoRows:
    """``splits`` of the demo's users, and of ``others``; both have ``train`` and ``validation``.

    Item means are those of the split's own training rows. ``others`` is None where too few users are left.
    """

    splits: datasets.DatasetDict
    others: datasets.DatasetDict | None

    @classmethod
    def load(cls, folder: Path, settings: DemoSettings) -> DemoRows:
        """Draw the users of a run from MovieLens-100K in ``folder``."""
        all_rows = check_interactions(read_movielens(folder), default_task())
        if settings.items is not None:
            all_rows = of_popular_items(all_rows, settings.items)
        own = sample_users(all_rows, settings.users, settings.seed)
        taken = set(rows_by_user(own))
        free = sorted(set(rows_by_user(all_rows)) - taken)
        count = min(len(free), max(_FEWEST, int(len(taken) * _OTHER_SHARE)))
        others = None
        if count >= _FEWEST:
            drawn = np.random.default_rng(settings.seed + 1).choice(free, count, replace=False).tolist()
            others = _split(of_users(all_rows, drawn), settings.rows_per_user)
        return cls(_split(own, settings.rows_per_user), others)


def _split(rows: datasets.Dataset, rows_per_user: int) -> datasets.DatasetDict:
    return with_item_statistics(chronological_split(most_recent(rows, rows_per_user)))


def of_popular_items(rows: datasets.Dataset, items: int) -> datasets.Dataset:
    """The rows of the ``items`` items that have the most rows; of two with as many, the one that comes first."""
    item_of, names = codes(column(rows, "item_id"))
    order = np.argsort(-np.bincount(item_of, minlength=len(names)), kind="stable")
    described = with_description(rows, f"the {items} items with the most rows")
    return take_rows(described, np.flatnonzero(np.isin(item_of, order[:items])))
