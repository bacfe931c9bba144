"""Making transformers' Auto classes know ours after ``import puma_hub``, without importing transformers for it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# The modules that define the Auto classes; ours register themselves when puma_hub.adapter is imported.
_AUTO_MODULES = ("transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto")


class _ThenRegister(Loader):
    """Runs a module's own loader, then imports our classes."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__name__ == _AUTO_MODULES[0] and _AUTO_MODULES[1] in sys.modules:
            return  # the models are being imported around this; their turn comes when they are done
        _Finder.remove()
        importlib.import_module("puma_hub.adapter")


class _Finder(MetaPathFinder):
    """Stands in front of the other finders until an Auto module is first imported."""

    installed: _Finder | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _AUTO_MODULES:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                spec.loader = _ThenRegister(spec.loader)
                return spec
        return None

    @classmethod
    def remove(cls) -> None:
        if cls.installed in sys.meta_path:
            sys.meta_path.remove(cls.installed)
        cls.installed = None


def when_loaded() -> None:
    """Register our classes now if the Auto classes are loaded, else as soon as they are."""
    if any(name in sys.modules for name in _AUTO_MODULES):
        importlib.import_module("puma_hub.adapter")
    elif _Finder.installed is None:
        _Finder.installed = _Finder()
        sys.meta_path.insert(0, _Finder.installed)
