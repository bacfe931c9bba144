"""Matrix factorisation as a baseline, by scikit-surprise."""

from __future__ import annotations

import datasets
import numpy as np

from puma_hub.data.rows import column, numbers
from puma_hub.errors import MissingDependencyError

# Chosen by the last 20 % of the training rows of MovieLens-100K, never by held-out rows.
_FACTORS, _EPOCHS, _PENALTY = 100, 100, 0.12
_SEED = 42


def matrix_factorization(train: datasets.Dataset, rows: datasets.Dataset) -> np.ndarray:
    """Mean + user bias + item bias + product of factors, by gradient descent (Koren, Bell and Volinsky, 2009, eq. 5).

    A user or an item without training rows counts with its bias and its factors at 0.

    Raises:
        MissingDependencyError: scikit-surprise is not installed.
    """
    try:
        from surprise import SVD, Dataset, Reader
    except ImportError as error:
        raise MissingDependencyError(
            "matrix factorisation needs the package scikit-surprise: pip install scikit-surprise"
        ) from error
    labels = numbers(train, "label")
    users, items = (column(train, name).to_pylist() for name in ("user_id", "item_id"))
    ratings = list(zip(users, items, labels.tolist(), [None] * len(labels)))
    scale = (float(labels.min()), float(labels.max()))
    known = Dataset(Reader(rating_scale=scale)).construct_trainset(ratings)
    model = SVD(n_factors=_FACTORS, n_epochs=_EPOCHS, reg_all=_PENALTY, random_state=_SEED).fit(known)
    asked = zip(column(rows, "user_id").to_pylist(), column(rows, "item_id").to_pylist())
    return np.array([model.predict(user, item, clip=False).est for user, item in asked], dtype=np.float64)
