"""Clicks from ratings: high ones are clicks, low ones are none."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.held_out import with_description
from puma_hub.data.histories import titles_before
from puma_hub.data.rows import flat, from_table, numbers
from puma_hub.errors import ConfigurationError, InteractionsError

RATING = "click_rating"  # the column of the rating that a click was made of


def with_likes(splits: datasets.DatasetDict, *, at_least: float = 4.0) -> datasets.DatasetDict:
    """Make ratings of ``at_least`` clicks, label 1, and lower ones label 0.

    So are clicks made of MovieLens for models that predict them (Zhou et al., Deep Interest Network, KDD 2018, section
    6.1). The column ``click_rating`` keeps the ratings. ``history`` becomes the titles of the last five items that the
    user liked before, the oldest first, in whichever split.

    Raises:
        ConfigurationError: ``at_least`` is no finite number.
        InteractionsError: all ratings are on the same side of it, or some are missing.
    """
    if isinstance(at_least, bool) or not isinstance(at_least, (int, float)) or not math.isfinite(at_least):
        raise ConfigurationError(f"likes must begin at a finite rating, got {at_least!r}")
    plain = {name: flat(rows) for name, rows in splits.items()}
    tables = [rows.data.table.select(_used(rows)) for rows in plain.values()]
    together = from_table(pa.concat_tables(tables, promote_options="permissive"))
    ratings = numbers(together, "label")
    if np.isnan(ratings).any():
        raise InteractionsError(
            f"{int(np.isnan(ratings).sum())} of {len(ratings)} ratings are missing; drop these rows"
        )
    liked = ratings >= at_least
    if liked.all() or not liked.any():
        raise InteractionsError(
            f"{'all' if liked.all() else 'none'} of {len(liked)} ratings are at least {at_least}, so there is nothing "
            "to tell apart; choose a rating between the lowest and the highest"
        )
    histories, found, start = titles_before(together, liked), {}, 0
    for name, rows in plain.items():
        own = slice(start, start + len(rows))
        kept = [one for one in rows.column_names if one not in ("label", "history", RATING)]
        table = rows.data.table.select(kept).append_column(RATING, rows.data.table.column("label"))
        table = table.append_column("label", pa.array(liked[own].astype(np.float64)))
        table = table.append_column("history", histories.slice(start, len(rows)))
        described = with_description(splits[name], f"ratings of {at_least:g} or more are clicks")
        info = datasets.DatasetInfo(description=described.info.description)
        found[name] = from_table(table.replace_schema_metadata(None), info)
        start += len(rows)
    return datasets.DatasetDict(found)


def _used(rows: datasets.Dataset) -> list[str]:
    return [name for name in ("user_id", "item_text", "label", "timestamp") if name in rows.column_names]
