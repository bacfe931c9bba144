"""How many users, items and records there are, and how the paper's data sets compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from puma_hub.data.cell_values import as_text
from puma_hub.data.rows import codes, column, numbers

_MOST_LABELS = 20  # of which shares are told

# The paper's Table 1, in the form of describe().
TABLE_1: Mapping[str, Mapping[str, Any]] = {
    "amazon-movies": {"users": 30_287, "items": 96_636, "records": 1_166_752, "records_per_user": {"mean": 38.5}},
    "mind": {
        "users": 50_000,
        "items": 19_368,
        "records": 3_892_068,
        "records_per_user": {"mean": 77.8},
        "positive_ratio": 0.178,
    },
    "yelp": {"users": 32_850, "items": 129_076, "records": 1_543_687, "records_per_user": {"mean": 47.0}},
}


def describe(splits: datasets.DatasetDict) -> dict[str, Any]:
    """Statistics of checked interactions, over all splits.

    Returns:
        ``users``, ``items``, ``records``; ``records_per_user`` with mean, min and max; ``positive_ratio`` of labels 0
        and 1, else ``label_shares`` by label where there are few, and ``label_mean``; ``splits`` with the records and
        users of each.
    """
    per_user: dict[str, int] = {}
    items: set[str] = set()
    labels = []
    parts = {}
    for name, rows in splits.items():
        which, users = codes(as_text(column(rows, "user_id"), "user_id"))
        counts = np.bincount(which, minlength=len(users)).tolist()
        for user, count in zip(users, counts):
            per_user[user] = per_user.get(user, 0) + count
        items.update(codes(as_text(column(rows, "item_id"), "item_id"))[1])
        labels.append(numbers(rows, "label"))
        parts[str(name)] = {"records": len(rows), "users": len(users)}
    records = np.array(list(per_user.values()))
    return {
        "users": len(per_user),
        "items": len(items),
        "records": int(records.sum()),
        "records_per_user": {
            "mean": float(records.mean()),
            "min": int(records.min()),
            "max": int(records.max()),
        },
        **_labels(np.concatenate(labels)),
        "splits": parts,
    }


def _labels(labels: np.ndarray) -> dict[str, Any]:
    values, counts = np.unique(labels, return_counts=True)
    if set(values.tolist()) <= {0.0, 1.0}:
        return {"positive_ratio": float(labels.mean())}
    shares: dict[str, Any] = {"label_mean": float(labels.mean())}
    if len(values) <= _MOST_LABELS:
        shares["label_shares"] = {f"{value:g}": count / len(labels) for value, count in zip(values, counts.tolist())}
    return shares
