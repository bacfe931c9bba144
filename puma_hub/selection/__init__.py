"""Choosing the users an adapter trains on."""

from puma_hub.selection.losses import user_losses
from puma_hub.selection.select import select_users

__all__ = ["select_users", "user_losses"]
