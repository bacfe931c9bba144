"""Two tiny models, made-up interactions and a configuration of the experiments on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import make_interactions, make_model, make_tokenizer

USERS, NEWCOMERS = 32, 6


def make_place(folder: Path, **changes: Any) -> Path:
    """Save models and rows in ``folder``, and a configuration; return its file."""
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(folder / family)
        make_tokenizer().save_pretrained(folder / family)
    make_interactions(USERS + NEWCOMERS, 8).to_csv(folder / "rows.csv", index=False)
    return write_config(folder, **changes)


def write_config(folder: Path, name: str = "config.yaml", **changes: Any) -> Path:
    llama, gemma = str(folder / "llama"), str(folder / "gemma3")
    config = {
        "models": [llama, gemma],
        "data": {
            "name": str(folder / "rows.csv"),
            "users": USERS,
            "newcomers": NEWCOMERS,
            "held_out": 0.25,
            "item_statistics": True,
        },
        "seeds": [1, 2],
        "dtype": "float32",
        "share": 0.25,
        "strategy": "random",
        "prompts": {  # far from the base, so that prompts differ and figures show whose they are
            "prompt_method": "shared",
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1.0,
            "offset_penalty": 0.0,
            "validation_share": 0.0,
        },
        "retrainings": {"independent": {"prompt_method": "independent", "num_train_epochs": 1}},
        "adapter": {"rows": 24, "items": 6, "rows_per_user": 3},
        "budgets": [0.25, 0.5],
        "budget_strategies": ["random"],
        "cold_start": {"rows": [0, 2], "gradient_steps": 3, "batch_size": 8},
        "label_free": {"items": [3], "rows": [12]},
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(config))
    return path
