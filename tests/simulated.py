"""Predictions of invented users on two systems, whose true figures are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_hub.evaluation.compare import Controls
from puma_hub.tasks import RatingTask, Task

TASTE, ITEM, NOISE, LOST = 0.375, 0.09, 1.0, 0.0625  # variances: of users' tastes, of items, of labels, of the target
OWN = {"source": 0.8, "target": 0.6}  # how much of a taste the own prompts know
KEPT = {"source": 1.0, "target": 0.8}  # how much of the items a side knows


def true_figures() -> dict[str, float]:
    """The figures of infinitely many users of :func:`simulated`."""
    errors = {
        (side, name): np.sqrt(
            (1 - known) ** 2 * TASTE + NOISE + KEPT[side] ** 2 * ITEM + (LOST if side == "target" else 0.0)
        )
        for side in OWN
        for name, known in (("own", OWN[side]), ("mean", 0.0))
    }
    gains = {side: errors[side, "mean"] - errors[side, "own"] for side in OWN}
    return {
        "source": errors["source", "own"],
        "target": errors["target", "own"],
        "worsening": errors["target", "own"] - errors["source", "own"],
        "source gain": gains["source"],
        "target gain": gains["target"],
        "retention": gains["target"] / gains["source"],
    }


def simulated(generator: np.random.Generator, users: int = 200, rows: int = 10) -> dict[str, Any]:
    """Users with 1 row and more, ``rows`` on average; some are more active, and some have noisier labels.

    Returns:
        ``users (N,)``, ``labels (N,)`` around 0, and predictions of ``source`` and ``target`` by name.
    """
    of_row = np.repeat(np.arange(users), 1 + generator.poisson((rows - 1) * generator.gamma(2, 0.5, users)))
    size = len(of_row)
    taste = generator.normal(0, np.sqrt(TASTE), users)[of_row]
    labels = taste + generator.normal(0, 1, size) * np.sqrt(generator.gamma(4, 0.25, users))[of_row]
    item = generator.normal(0, np.sqrt(ITEM), size)
    found: dict[str, Any] = {"users": of_row, "labels": labels}
    for side in OWN:
        base = KEPT[side] * item + (generator.normal(0, np.sqrt(LOST), size) if side == "target" else 0.0)
        found[side] = {"own": OWN[side] * taste + base, "mean": base}
    return found


def controls(drawn: dict[str, Any], task: Task | None = None) -> tuple[Controls, Controls]:
    """Both sides of :func:`simulated` as ``compare_banks`` has them, with ids and shuffled prompts."""
    ids = [f"user-{number}" for number in drawn["users"]]
    order = np.random.default_rng(5).permutation(int(drawn["users"].max()) + 1)
    first = np.searchsorted(drawn["users"], order[drawn["users"]])  # a row of another user
    sides = []
    for side in ("source", "target"):
        named = drawn[side]
        shuffled = named["mean"] + (named["own"] - named["mean"])[first]
        sides.append(Controls(task or RatingTask(), ids, drawn["labels"], {**named, "shuffled": shuffled}))
    return sides[0], sides[1]
