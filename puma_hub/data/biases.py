"""User and item biases: what a user, and an item, add to the mean label, without a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from puma_hub.data.rows import codes_of_both, column, flat, from_table, numbers, take_rows
from puma_hub.errors import InteractionsError

if TYPE_CHECKING:
    from puma_hub.tasks import Task

BIAS = "bias"
_PENALTY = 5.0
_FOLDS = 10


def user_item_bias(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """Of each of ``rows`` the biases of its user and item together, float64 ``(N,)``, in units of the label.

    Ridge regression of the labels of ``train``, less their mean, on both (Koren, Bell and Volinsky, 2009, eq. 3). Users
    and items without training rows have the bias 0.
    """
    labels = numbers(train, "label")
    users, user_of = codes_of_both(train, rows, "user_id")
    items, item_of = codes_of_both(train, rows, "item_id")
    first_item = max(int(users.max()), int(user_of.max(initial=0))) + 1
    columns = first_item + max(int(items.max()), int(item_of.max(initial=0))) + 1
    ridge = Ridge(alpha=_PENALTY, fit_intercept=False, solver="sparse_cg", tol=1e-8)
    ridge.fit(_one_hot(users, items + first_item, columns), labels - float(labels.mean()))
    biases: np.ndarray = ridge.predict(_one_hot(user_of, item_of + first_item, columns))
    return biases


def with_biases(splits: datasets.DatasetDict, *, seed: int = 42) -> datasets.DatasetDict:
    """Add the column ``bias``: :func:`user_item_bias` of each row by the labels of ``train``.

    That of a training row is computed without the row, in ten folds drawn with ``seed``, so that it is no better than
    that of a held-out row. With ``RatingTask(offset="bias")`` the LLM learns what biases leave over.

    Raises:
        InteractionsError: ``train`` has fewer than 10 rows.
    """
    train = splits["train"]
    if len(train) < _FOLDS:
        raise InteractionsError(f"biases need at least {_FOLDS} training rows, got {len(train)}; give more rows")
    own = np.empty(len(train))
    for others, rows in KFold(_FOLDS, shuffle=True, random_state=seed).split(np.arange(len(train))):
        own[rows] = user_item_bias(take_rows(train, others), take_rows(train, rows))
    found = {name: own if name == "train" else user_item_bias(train, rows) for name, rows in splits.items()}
    return datasets.DatasetDict({name: _with_column(rows, found[name]) for name, rows in splits.items()})


def offsets_of(rows: datasets.Dataset, task: Task) -> np.ndarray:
    """The known part of each row's label, float64 ``(N,)``: the column that the task names, or 0.

    Raises:
        InteractionsError: the column is missing, or holds something else than finite numbers.
    """
    name = task.offset_column
    if name is None:
        return np.zeros(len(rows))
    if name not in rows.column_names:
        raise InteractionsError(
            f"the task adds the column {name!r} to its predictions, and rows have {', '.join(rows.column_names)}; add "
            "it, user and item biases with with_biases(splits)"
        )
    kind = column(rows, name).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InteractionsError(f"column {name!r} must hold numbers, found {kind}; convert it")
    values = numbers(rows, name)
    if not np.isfinite(values).all():
        raise InteractionsError(f"column {name!r} is empty or infinite in {int((~np.isfinite(values)).sum())} rows")
    return values


def _with_column(rows: datasets.Dataset, values: np.ndarray) -> datasets.Dataset:
    plain = flat(rows)
    table = plain.data.table
    if BIAS in table.column_names:
        table = table.drop_columns([BIAS])
    table = table.append_column(BIAS, pa.chunked_array([values]))
    info = plain.info.copy()
    info.features = datasets.Features({**plain.features, BIAS: datasets.Value("float64")})
    return from_table(table.replace_schema_metadata(None), info)


def _one_hot(first: np.ndarray, second: np.ndarray, columns: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(first)), 2)
    return sparse.csr_matrix(
        (np.ones(2 * len(first)), (rows, np.stack([first, second], 1).ravel())), (len(first), columns)
    )
