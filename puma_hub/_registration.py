"""Making transformers know our classes after ``import puma_hub``, without importing transformers for it.

``AutoModel.register`` and ``PIPELINE_REGISTRY.register_pipeline`` need transformers' own modules, whose import takes
seconds, and transformers reads no entry points. So a finder on ``sys.meta_path`` waits until a program imports these
modules itself, registers our classes then, and takes itself away.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Ours that register themselves when imported, and the modules of transformers after which they are.
_AFTER = {
    "puma_hub.adapter.model": ("transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"),
    "puma_hub.pipelines": ("transformers.pipelines",),
}
_thread = threading.local()


@contextmanager
def _importing() -> Iterator[None]:
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1


class _Noticed(Loader):
    """Runs a module's own loader, and imports ours when the outermost import of transformers is done.

    Within it ours could not be imported: they need modules that may be half done.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with _importing():
            self._loader.exec_module(module)
        if _Finder.installed is not None:
            _Finder.installed.register_loaded()


class _Finder(MetaPathFinder):
    """Stands in front of the other finders until all of ours are registered."""

    installed: _Finder | None = None

    def __init__(self) -> None:
        self._waiting = list(_AFTER)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != "transformers":
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Noticed(spec.loader)
                return spec
        return None

    def register_loaded(self) -> None:
        """Import ours whose time has come, unless an import is going on around this."""
        if getattr(_thread, "depth", 0):
            return
        with _importing():
            while ours := next((o for o in self._waiting if any(name in sys.modules for name in _AFTER[o])), None):
                self._waiting.remove(ours)
                importlib.import_module(ours)
        if not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def when_loaded() -> None:
    """Register our classes now where transformers' own are loaded, else as soon as they are."""
    if _Finder.installed is None:
        _Finder.installed = _Finder()
        sys.meta_path.insert(0, _Finder.installed)
        _Finder.installed.register_loaded()
