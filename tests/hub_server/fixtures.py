"""Starts the Hub of this process and points the Hugging Face libraries to it; the fixtures on it.

The libraries read ``HF_ENDPOINT`` and the places of their caches when they are imported, so importing this module
must come before them: ``tests/conftest.py`` does it first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub_server.server import HubServer

_LATE = [name for name in ("huggingface_hub", "datasets", "transformers", "evaluate") if name in sys.modules]
if _LATE:
    raise ImportError(f"tests.hub_server.fixtures must be imported before {', '.join(_LATE)}")

_SERVER = HubServer()
_HOME = Path(tempfile.mkdtemp(prefix="hub-home-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_KEEP = ("HF_HUB_VERBOSITY", "HF_DEBUG")
for _name in [
    name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and name not in _KEEP
]:
    del os.environ[_name]  # nothing of the developer's own login, cache or endpoint
os.environ.update(
    HF_ENDPOINT=_SERVER.endpoint,
    HF_HOME=str(_HOME),
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
)
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1"]))


class Hub(HubServer):
    """Only for the type of the ``hub`` fixture: the server with the client's cache beside it."""

    empty_cache: Callable[[], Path]


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub without repositories, and clients with an empty cache and no token."""
    import datasets
    import huggingface_hub.constants

    assert _SERVER.endpoint == huggingface_hub.constants.ENDPOINT, "huggingface_hub was imported too early"

    def empty_cache() -> Path:
        """Give the clients of this process, and of the ones it starts, a new empty cache; return its folder."""
        home = tmp_path_factory.mktemp("hf-home")
        monkeypatch.setenv("HF_HOME", str(home))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(home / "assets"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", home / "datasets" / "downloads")
        monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", home / "datasets" / "downloads" / "extracted")
        huggingface_hub.HfFileSystem.clear_instance_cache()
        return home

    monkeypatch.delenv("HF_TOKEN", raising=False)
    _SERVER.reset()
    empty_cache()
    monkeypatch.setattr(_SERVER, "empty_cache", empty_cache, raising=False)
    yield _SERVER  # type: ignore[misc]
    errors = _SERVER.errors
    _SERVER.reset()
    assert not errors, "\n".join(errors)


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Act as a user from here on: ``login("alice")``, ``login("bob", "read")``, ``login(None)``."""
    from huggingface_hub import HfFileSystem

    def act_as(user: str | None, right: str = "write") -> None:
        HfFileSystem.clear_instance_cache()
        if user is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", HubServer.token(user, right))

    return act_as


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the clients' waits between retries; what they retry, and how often, stays theirs."""
    import datasets
    import huggingface_hub.file_download
    import huggingface_hub.utils._http

    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / 100)})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", hurried)
    monkeypatch.setattr(huggingface_hub.file_download, "time", hurried)
    for name in [name for name in vars(datasets.config) if name.endswith("_RETRY_INTERVAL")]:
        monkeypatch.setattr(datasets.config, name, getattr(datasets.config, name) / 100)
