"""Prompt banks: one soft prompt for each user, and where the prompts come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.statistics import BankStatistics

if TYPE_CHECKING:
    from puma_hub.bank.changes import delete_users, update_users

__all__ = ["BankStatistics", "PromptBank", "Provenance", "delete_users", "update_users"]


def __getattr__(name: str) -> Any:
    if name not in ("delete_users", "update_users"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from puma_hub.bank import changes  # needs the Hub's client

    return getattr(changes, name)
