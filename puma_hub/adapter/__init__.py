"""The trained map between the prompt spaces of two language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma_hub.adapter.config import ARCHITECTURES, PumaConfig
    from puma_hub.adapter.model import PumaAdapter, PumaAdapterOutput

# Not warm_start: its module has the function's name, and would hide it.
_MODULES = {
    "config": ("ARCHITECTURES", "PumaConfig"),
    "model": ("PumaAdapter", "PumaAdapterOutput"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["ARCHITECTURES", "PumaAdapter", "PumaAdapterOutput", "PumaConfig"]


def __getattr__(name: str) -> Any:
    # Imported when first used: what is known of published adapters is read without torch.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, or the module warm_start would stand for its function from now on.
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
