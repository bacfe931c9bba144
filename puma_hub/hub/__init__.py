"""Adapters and banks on the Hub: names, cards, publishing, finding. Heavy imports stay inside its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma_hub.hub.bank_changes import delete_users, update_users

__all__ = ["delete_users", "update_users"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from puma_hub.hub import bank_changes

    return getattr(bank_changes, name)
