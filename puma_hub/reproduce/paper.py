"""The figures of the paper (Zhao et al., AAAI 2026, arXiv 2601.12034) that ours stand beside.

Rows and columns are named as in our tables. Llama-3.2-1B to Llama-3.2-3B where nothing else is said.
"""

from __future__ import annotations

Rows = dict[str, dict[str, float]]

CITATION = "arXiv 2601.12034"
DATA = ("amazon", "mind", "yelp")
"""The paper's data sets."""

TABLE2: dict[str, Rows] = {
    "amazon": {
        "retrained": {"rmse": 0.9414, "mae": 0.6296},
        "source": {"rmse": 0.9438, "mae": 0.6306},
        "random": {"rmse": 1.2352, "mae": 1.1168},
        "migrated": {"rmse": 0.9135, "mae": 0.5701},
    },
    "mind": {
        "retrained": {"auc": 0.5778, "user_auc": 0.5289},
        "source": {"auc": 0.5742, "user_auc": 0.5312},
        "random": {"auc": 0.4917, "user_auc": 0.4883},
        "migrated": {"auc": 0.6546, "user_auc": 0.6552},
    },
    "yelp": {
        "retrained": {"rmse": 1.1994, "mae": 0.9269},
        "source": {"rmse": 1.2005, "mae": 0.9369},
        "random": {"rmse": 1.6671, "mae": 1.4981},
        "migrated": {"rmse": 1.1073, "mae": 0.8493},
    },
}
"""Table 2, all users."""

COST = {"retraining": 24.0 * 3600, "adapter": 0.48 * 3600, "ratio": 50.0}
"""Seconds on Amazon: 8 epochs of retraining, and 3 of an adapter on 2,000 users."""


def _table4(rmse: tuple[float, ...], user_auc: tuple[float, ...], yelp: tuple[float, ...]) -> dict[str, Rows]:
    names = (
        "random",
        "random, 3 times the budget",
        "variance",
        "loss",
        "kmeans",
        "kmeans-pca",
        "kmeans-fps",
        "kmeans-loss",
        "puma",
        "ffn-kmeans",
        "ffn-loss",
        "ffn-variance",
    )
    columns = {"amazon": ("rmse", rmse), "mind": ("user_auc", user_auc), "yelp": ("rmse", yelp)}
    return {
        data: {name: {metric: value} for name, value in zip(names, values)}
        for data, (metric, values) in columns.items()
    }


TABLE4 = _table4(
    (0.9419, 0.9320, 0.9508, 0.9454, 0.9546, 0.9351, 0.9355, 0.9371, 0.9315, 0.9373, 0.9467, 0.9365),
    (0.5861, 0.6636, 0.5888, 0.5845, 0.5927, 0.5652, 0.5966, 0.5884, 0.6344, 0.5697, 0.6298, 0.5936),
    (1.1146, 1.1128, 1.1171, 1.1127, 1.1152, 1.1138, 1.1147, 1.1122, 1.1111, 1.1112, 1.1115, 1.1184),
)
"""Table 4, strategies at a budget of 2,000 users (MIND: 1,500)."""

_FAMILIES = ("llama", "qwen", "gemma", "phi", "stablelm")
_GAINS = {
    "llama": (None, 1.0147, 1.0299, 1.0124, 1.0113),
    "qwen": (0.9965, None, 1.0165, 0.9970, 0.9903),
    "gemma": (0.9969, 1.0007, None, 0.9862, 0.9856),
    "phi": (1.0175, 1.0137, 1.0256, None, 1.0097),
    "stablelm": (1.0155, 1.0186, 1.0203, 1.0009, None),
}
FIGURE4: Rows = {
    source: {target: gain for target, gain in zip(_FAMILIES, gains) if gain is not None}
    for source, gains in _GAINS.items()
}
"""Retrained RMSE / migrated RMSE on Amazon with 6,000 users; sources in rows, targets in columns, by family."""

FIGURE5: Rows = {
    "qwen": {"chain": 0.9348, "trained": 0.9485},
    "gemma": {"chain": 0.9355, "trained": 0.9606},
    "stablelm": {"chain": 0.9366, "trained": 0.9365},
    "phi": {"chain": 0.9277, "trained": 0.9369},
}
"""RMSE on Amazon after each step of Llama -> Qwen -> Gemma -> StableLM -> Phi."""

FIGURE6: Rows = {"llama": {"rmse": 0.9293}, "stablelm": {"rmse": 0.9380}, "aggregated": {"rmse": 0.9217}}
"""RMSE on Amazon with Phi as the target, by source."""


def family(model: str) -> str | None:
    """The family that the paper names a model by, from its name."""
    name = model.lower()
    if "stablelm" in name:
        return "stablelm"
    return next((one for one in _FAMILIES if one in name), "llama" if "smollm" in name else None)
