"""Matrix factorisation as a baseline, against gradient descent written out."""

from __future__ import annotations

import logging
import sys

import datasets
import numpy as np
import pytest

from puma_hub.evaluation import baseline_predictions
from puma_hub.evaluation.baselines import user_item_bias
from puma_hub.evaluation.matrix_factorization import matrix_factorization
from tests.conftest import make_interactions


def _tastes(users: int = 60, items: int = 40, seed: int = 0) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Labels that hang on user and item together, more than on either."""
    draw = np.random.default_rng(seed)
    taste, kind = draw.normal(size=(users, 2)), draw.normal(size=(items, 2))
    pairs = [(user, item) for user in range(users) for item in range(items)]
    rows = datasets.Dataset.from_dict(
        {
            "user_id": [f"user-{user}" for user, _ in pairs],
            "item_id": [f"item-{item}" for _, item in pairs],
            "item_text": ["Toy Story"] * len(pairs),
            "label": [float(np.clip(3 + taste[user] @ kind[item], 1, 5)) for user, item in pairs],
        }
    )
    order = draw.permutation(len(rows))
    return rows.select(order[:1600]), rows.select(order[1600:])


def test_against_gradient_descent_written_out() -> None:
    pytest.importorskip("surprise")
    train, rows = make_interactions(5, 8), make_interactions(5, 3, seed=1)
    labels = np.array(train["label"][:])
    users, items = list(dict.fromkeys(train["user_id"][:])), list(dict.fromkeys(train["item_id"][:]))
    draw = np.random.RandomState(42)
    p, q = draw.normal(0, 0.1, (len(users), 100)), draw.normal(0, 0.1, (len(items), 100))
    b, c, mean = np.zeros(len(users)), np.zeros(len(items)), labels.mean()
    numbers = [(users.index(u), items.index(i)) for u, i in zip(train["user_id"], train["item_id"])]
    for _ in range(100):
        for (u, i), label in zip(numbers, labels):
            error = label - (mean + b[u] + c[i] + p[u] @ q[i])
            b[u] += 0.005 * (error - 0.12 * b[u])
            c[i] += 0.005 * (error - 0.12 * c[i])
            p[u], q[i] = p[u] + 0.005 * (error * q[i] - 0.12 * p[u]), q[i] + 0.005 * (error * p[u] - 0.12 * q[i])
    known = [(users.index(u), items.index(i)) for u, i in zip(rows["user_id"], rows["item_id"])]
    expected = [mean + b[u] + c[i] + p[u] @ q[i] for u, i in known]
    np.testing.assert_allclose(matrix_factorization(train, rows), expected, atol=1e-8)


def test_it_sees_what_biases_cannot() -> None:
    pytest.importorskip("surprise")
    train, rows = _tastes()
    labels = np.array(rows["label"][:])
    errors = [
        float(np.sqrt(np.mean((found(train, rows) - labels) ** 2))) for found in (matrix_factorization, user_item_bias)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_without_its_package_it_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "surprise", None)
    rows = make_interactions(3, 4)
    with caplog.at_level(logging.INFO, "puma_hub"):
        found = baseline_predictions(rows, rows)
    assert set(found) == {"global_mean", "user_mean", "user_item_bias"}
    assert "matrix_factorization is left out" in caplog.text and "pip install scikit-surprise" in caplog.text
