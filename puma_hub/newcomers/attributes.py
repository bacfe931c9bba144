"""Users who are alike by attributes that are given as columns."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa
from sklearn.compose import make_column_transformer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from puma_hub.data.rows import column, flat, require_dataset
from puma_hub.errors import InteractionsError


def prompts_of_alike(
    bank: datasets.Dataset,
    prompts: np.ndarray,
    attributes: datasets.Dataset,
    user_ids: Sequence[str],
    neighbours: int,
) -> np.ndarray:
    """The mean prompt float32 ``(n, l, d)`` of the bank's ``neighbours`` users nearest to each of ``user_ids``.

    Numbers are standardised over the bank's users and each value of a text column is a coordinate of its own;
    distances are Euclidean.

    Args:
        bank: the rows of the bank's users, whose prompts are ``prompts (N, l, d)``.
        attributes: a row for each of ``user_ids``, with ``user_id`` and columns that the bank has too.

    Raises:
        InteractionsError: ``user_id`` or a column is missing, a user has no row or several, or values are missing.
    """
    rows = flat(require_dataset(attributes))
    bank = flat(bank)
    names = [name for name in rows.column_names if name != "user_id"]
    known = [name for name in bank.column_names if name not in ("user_id", "prompt")]
    if "user_id" not in rows.column_names or not names or not set(names) <= set(known):
        raise InteractionsError(
            f"attributes need user_id and columns of the bank ({', '.join(known) or 'it has none'}), found "
            f"{', '.join(rows.column_names) or 'none'}; give the same columns to both"
        )
    place = {user: number for number, user in enumerate(column(rows, "user_id").to_pylist())}
    missing = sum(user not in place for user in user_ids)
    if missing or len(place) != len(rows):
        raise InteractionsError(
            f"attributes must have one row for each user: {missing} of {len(user_ids)} users have none, "
            f"{len(rows) - len(place)} rows are of a user who has another"
        )
    numeric = [name for name in names if _is_number(bank.data.table.schema.field(name).type)]
    other = [name for name in names if name not in numeric]
    encoder = make_column_transformer(
        (StandardScaler(), numeric), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), other)
    )
    ours = bank.select_columns(names).to_pandas()
    theirs = rows.select_columns(names).to_pandas().iloc[[place[user] for user in user_ids]]
    empty = [name for name in names if ours[name].isna().any() or theirs[name].isna().any()]
    if empty:
        raise InteractionsError(f"the attributes {', '.join(empty)} are empty for some users; fill or leave them out")
    found = NearestNeighbors(n_neighbors=min(neighbours, len(prompts))).fit(encoder.fit_transform(ours))
    near = found.kneighbors(encoder.transform(theirs), return_distance=False)
    alike: np.ndarray = prompts[near].mean(1, dtype=np.float64).astype(np.float32)
    return alike


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
