"""Migrate personalised soft prompts from one language model to another (PUMA, arXiv 2601.12034)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from puma_hub import _registration
from puma_hub._version import __version__ as __version__

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter, PumaAdapterOutput, PumaConfig
    from puma_hub.adapter.warm_start import warm_start
    from puma_hub.bank import PromptBank
    from puma_hub.bank.distribution import PromptDistribution
    from puma_hub.errors import PumaHubError
    from puma_hub.evaluation import compare_banks, evaluate_bank
    from puma_hub.hub.naming import pair_repo_id
    from puma_hub.identity import ModelSpec
    from puma_hub.migration import chain, migrate
    from puma_hub.newcomers import cold_start
    from puma_hub.registry.find import find_adapters
    from puma_hub.registry.route import find_route
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.selection import select_users
    from puma_hub.tasks import ClickTask, LikeTask, OrdinalTask, PromptTemplate, RatingTask, register_task
    from puma_hub.training import (
        AdapterTrainer,
        PromptTrainer,
        PumaTrainingArguments,
        best_teacher,
        combine_teachers,
        draw_rows,
        untrained_adapter,
        with_sensitivity,
        with_source_predictions,
    )

_FOLDERS = {
    "adapter": ("PumaAdapter", "PumaAdapterOutput", "PumaConfig"),
    "adapter.warm_start": ("warm_start",),
    "bank": ("PromptBank",),
    "bank.distribution": ("PromptDistribution",),
    "errors": ("PumaHubError",),
    "evaluation": ("compare_banks", "evaluate_bank"),
    "hub.naming": ("pair_repo_id",),
    "identity": ("ModelSpec",),
    "migration": ("chain", "migrate"),
    "newcomers": ("cold_start",),
    "registry.find": ("find_adapters",),
    "registry.route": ("find_route",),
    "scorer": ("PersonalizedLM",),
    "selection": ("select_users",),
    "tasks": ("ClickTask", "LikeTask", "OrdinalTask", "PromptTemplate", "RatingTask", "register_task"),
    "training": (
        "AdapterTrainer",
        "PromptTrainer",
        "PumaTrainingArguments",
        "best_teacher",
        "combine_teachers",
        "draw_rows",
        "untrained_adapter",
        "with_sensitivity",
        "with_source_predictions",
    ),
}
_FOLDER_OF = {name: folder for folder, names in _FOLDERS.items() for name in names}

__all__ = [
    "AdapterTrainer",
    "ClickTask",
    "LikeTask",
    "ModelSpec",
    "OrdinalTask",
    "PersonalizedLM",
    "PromptBank",
    "PromptDistribution",
    "PromptTemplate",
    "PromptTrainer",
    "PumaAdapter",
    "PumaAdapterOutput",
    "PumaConfig",
    "PumaHubError",
    "PumaTrainingArguments",
    "RatingTask",
    "best_teacher",
    "chain",
    "cold_start",
    "combine_teachers",
    "compare_banks",
    "draw_rows",
    "evaluate_bank",
    "find_adapters",
    "find_route",
    "migrate",
    "pair_repo_id",
    "register_task",
    "select_users",
    "untrained_adapter",
    "warm_start",
    "with_sensitivity",
    "with_source_predictions",
]


def __getattr__(name: str) -> Any:
    # Public names are imported when first used: torch and transformers take seconds.
    if name not in _FOLDER_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FOLDER_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_registration.when_loaded()
