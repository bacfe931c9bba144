"""Prompt banks: one soft prompt for each user, and where the prompts come from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.statistics import BankStatistics

if TYPE_CHECKING:
    from puma_hub.bank.changes import delete_users, update_users
    from puma_hub.bank.keyed_store import KeyedStore

__all__ = ["BankStatistics", "KeyedStore", "PromptBank", "Provenance", "delete_users", "update_users"]

# Changes need the Hub's client.
_MODULES = {"KeyedStore": "keyed_store", "delete_users": "changes", "update_users": "changes"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
