"""Prompts for the engines that models run in. Imported when first used: a way back must not wait for torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma_hub.serving.requests import PromptRequests

__all__ = ["PromptRequests"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("puma_hub.serving.requests"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
