"""Choosing the users an adapter trains on."""

from puma_hub.selection.select import STRATEGIES, select_users

__all__ = ["STRATEGIES", "select_users"]
