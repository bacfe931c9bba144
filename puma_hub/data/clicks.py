"""Clicks from rows that say what users took: the items they took, and for each some that they did not."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.data.held_out import with_description
from puma_hub.data.histories import titles_before
from puma_hub.data.rows import codes, codes_of_both, column, flat, from_table
from puma_hub.errors import ConfigurationError, InteractionsError

_ROUNDS = 20  # of drawing again what the user took


def with_negatives(
    splits: datasets.DatasetDict,
    *,
    negatives: int = 4,
    by_popularity: bool = True,
    known: datasets.Dataset | None = None,
    seed: int = 42,
) -> datasets.DatasetDict:
    """Make every row a click, label 1, followed by rows with label 0 of items that its user never took.

    Labels that rows have are not read. ``history`` becomes the titles of the last five items that the user took before,
    the oldest first, in whichever split; rows without a click have that of their click.

    Args:
        negatives: rows without a click for each click.
        by_popularity: draw an item in proportion to the users who took it, so that popular items are no more likely to
            be clicks; or all items alike.
        known: more rows of what users took, such as older ones; rows of the splits may be among them.

    Raises:
        ConfigurationError: ``negatives`` is below 1.
        InteractionsError: a user took so many items that too few are left.
    """
    if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 1:
        raise ConfigurationError(f"negatives must be a whole number >= 1, got {negatives!r}")
    plain = {name: _bare(rows) for name, rows in splits.items()}
    rows = from_table(pa.concat_tables([part.data.table for part in plain.values()], promote_options="permissive"))
    if known is not None:
        taken = codes_of_both(rows, known, "user_id"), codes_of_both(rows, known, "item_id")
        (users, more_users), (items, more_items) = taken
    else:
        users, items = codes(column(rows, "user_id"))[0], codes(column(rows, "item_id"))[0]
        more_users = more_items = np.zeros(0, np.int64)
    inside = more_items <= items.max()  # items of these rows, which have texts
    pairs = np.concatenate([users, more_users[inside]]), np.concatenate([items, more_items[inside]])
    drawn = _drawn(users, *pairs, negatives, by_popularity, np.random.default_rng(seed))
    first = np.unique(items, return_index=True)[1]
    clicked = rows.data.table.append_column("history", titles_before(rows))
    found, start = {}, 0
    for name, part in plain.items():
        numbers = np.arange(start, start + len(part))
        start += len(part)
        described = with_description(splits[name], f"{negatives} rows without a click for each click, seed {seed}")
        found[name] = _both(clicked, numbers, first[drawn[numbers]], described.info.description)
    return datasets.DatasetDict(found)


def _bare(rows: datasets.Dataset) -> datasets.Dataset:
    names = [name for name in ("user_id", "item_id", "item_text", "timestamp") if name in rows.column_names]
    return flat(rows.select_columns(names))


def _drawn(
    users: np.ndarray,
    takers: np.ndarray,
    items: np.ndarray,
    negatives: int,
    by_popularity: bool,
    generator: np.random.Generator,
) -> np.ndarray:
    """Items ``(N, negatives)`` that the row's user, of ``users (N,)``, did not take.

    ``takers (M,)`` took ``items (M,)``; both are numbered from 0, users and items of the rows first.
    """
    count = int(items.max()) + 1
    taken = np.unique(takers * count + items)  # each user and item once, however often they come
    weights = np.bincount(taken % count, minlength=count).astype(np.float64) if by_popularity else np.ones(count)
    ends = np.cumsum(weights) / weights.sum()
    drawn = np.zeros((len(users), negatives), dtype=np.int64)
    wrong = np.ones(drawn.shape, dtype=bool)
    nothing_left = 0
    for _ in range(_ROUNDS):
        drawn[wrong] = np.minimum(np.searchsorted(ends, generator.random(int(wrong.sum())), side="right"), count - 1)
        pairs = users[:, None] * count + drawn
        wrong = taken[np.searchsorted(taken, pairs).clip(max=len(taken) - 1)] == pairs
        if not wrong.any():
            return drawn
    for user in np.unique(users[wrong.any(1)]):  # those who took most of what is drawn
        left = weights.copy()
        left[taken[taken // count == user] % count] = 0.0
        asked = wrong & (users == user)[:, None]
        if left.any():
            drawn[asked] = generator.choice(count, int(asked.sum()), p=left / left.sum())
        else:
            nothing_left += 1
    if nothing_left:
        raise InteractionsError(
            f"{nothing_left} users took all of the {count} items, so there is none left to draw for them; leave these "
            "users out, or add items"
        )
    return drawn


def _both(clicked: pa.Table, numbers: np.ndarray, others: np.ndarray, description: str) -> datasets.Dataset:
    """The clicks ``numbers (n,)`` of a split, each followed by its rows of the items in the rows ``others (n, k)``."""
    each = 1 + others.shape[1]
    of_click = np.repeat(numbers, each)
    of_item = np.concatenate([numbers[:, None], others], axis=1).ravel()
    table = clicked.take(pa.array(of_click))
    for name in ("item_id", "item_text"):
        items = clicked.column(name).take(pa.array(of_item))
        table = table.set_column(table.column_names.index(name), name, items)
    labels = np.tile(np.r_[1.0, np.zeros(each - 1)], len(numbers))
    table = table.append_column("label", pa.chunked_array([labels]))
    return from_table(table.replace_schema_metadata(None), datasets.DatasetInfo(description=description))
