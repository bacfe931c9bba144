"""What goes with an adapter when it is shared."""

from puma_hub.hub.card import adapter_card

__all__ = ["adapter_card"]
