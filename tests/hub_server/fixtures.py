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
from typing import TYPE_CHECKING

import pytest

from tests.hub_server.server import HubServer

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LATE = [name for name in ("huggingface_hub", "datasets", "transformers", "evaluate") if name in sys.modules]
if _LATE:
    raise ImportError(f"tests.hub_server.fixtures must be imported before {', '.join(_LATE)}")


class Hub(HubServer):
    """The server, and the caches of the clients in this process."""

    patch: pytest.MonkeyPatch
    folders: pytest.TempPathFactory

    def empty_cache(self) -> Path:
        """Give the clients of this process, and of its children, a new empty cache; return its folder."""
        import datasets
        from huggingface_hub import HfFileSystem, constants

        home = self.folders.mktemp("hf-home")
        self.patch.setenv("HF_HOME", str(home))
        for name, folder in (("HF_HUB_CACHE", "hub"), ("HF_ASSETS_CACHE", "assets"), ("HF_TOKEN_PATH", "token")):
            self.patch.setattr(constants, name, str(home / folder))
        downloads = home / "datasets" / "downloads"
        self.patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        self.patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", downloads)
        self.patch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", downloads / "extracted")
        HfFileSystem.clear_instance_cache()
        return home


_SERVER = Hub()
_HOME = Path(tempfile.mkdtemp(prefix="hub-home-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_OTHERS = ("HF_", "HUGGING", "TRANSFORMERS_")  # nothing of the developer's own login, cache or endpoint
for _name in [name for name in os.environ if name.startswith(_OTHERS)]:
    del os.environ[_name]
os.environ.update(
    HF_ENDPOINT=_SERVER.endpoint,
    HF_HOME=str(_HOME),
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    HF_XET_CLIENT_RETRY_BASE_DELAY="10ms",
)
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1"]))


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub without repositories, and clients with an empty cache and no token."""
    from huggingface_hub import constants

    assert _SERVER.endpoint == constants.ENDPOINT, "huggingface_hub was imported before the Hub was started"
    _SERVER.patch, _SERVER.folders = monkeypatch, tmp_path_factory
    monkeypatch.delenv("HF_TOKEN", raising=False)
    _SERVER.reset()
    _SERVER.empty_cache()
    yield _SERVER
    errors = _SERVER.errors
    _SERVER.reset()
    assert not errors, "\n".join(errors)


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Act as a user for the rest of the test: ``login("alice")``, ``login("bob", "read")``, ``login(None)``."""
    from huggingface_hub import HfFileSystem

    def act_as(user: str | None, right: str = "write") -> None:
        HfFileSystem.clear_instance_cache()
        if user is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", HubServer.token(user, right))

    return act_as


@pytest.fixture
def api(hub: Hub, login: Callable[..., None]) -> HfApi:
    """The client of alice, who is logged in."""
    from huggingface_hub import HfApi

    login("alice")
    return HfApi()


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
