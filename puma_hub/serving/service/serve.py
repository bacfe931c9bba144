"""Serving users' prompts over HTTP, from start to end."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from puma_hub.errors import ConfigurationError, MissingDependencyError
from puma_hub.serving.service.limits import ServiceLimits

if TYPE_CHECKING:
    from puma_hub.serving.service.backend import Backend
    from puma_hub.serving.service.keys import ApiKeys
    from puma_hub.serving.service.meters import Meters

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def require_packages() -> None:
    """Check that the optional packages of the service are installed.

    Raises:
        MissingDependencyError: one is not.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            name = package.replace("_", "-")
            raise MissingDependencyError(f"the service needs {name}: pip install 'puma_hub[serve]'") from error


def serve(
    model: str,
    load: Callable[[Meters], Backend],
    *,
    host: str,
    port: int,
    keys: ApiKeys,
    limits: ServiceLimits,
    listens: Callable[[str], None],
    say: Callable[[str], None],
    anyone: bool = False,
) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT, and return what was served.

    Without keys only programs on this machine are answered, and web pages open on it are not, unless ``anyone`` is set.

    Args:
        model: the LLM's name in requests.
        load: makes the back end, in another thread, while the service already listens.
        listens: told the address when the service listens.
        say: takes a line of progress.
        anyone: answer whoever asks, on any address.

    Raises:
        ConfigurationError: there are no keys for an address that other machines reach, or the service cannot listen
            there.
        MissingDependencyError: an optional package is not installed.
        PumaHubError: the back end cannot be made.
    """
    require_packages()
    from puma_hub.serving.service.meters import Meters
    from puma_hub.serving.service.running import Running, is_loopback, listening
    from puma_hub.serving.service.service import Service

    if not len(keys) and not anyone and not is_loopback(host):
        raise ConfigurationError(
            f"other machines reach {host}, so requests need API keys: give --api-keys FILE, or --no-api-keys behind a "
            "gateway that checks who asks, or listen on 127.0.0.1"
        )
    meters = Meters()
    service = Service(model, limits, keys, meters, only_here=not len(keys) and not anyone)
    began = time.monotonic()
    with listening(host, port) as (bound, address):
        running = Running(service, lambda: load(meters), bound, say)
        listens(address)
        running.run()
    return {"model": model, "address": address, "seconds": time.monotonic() - began, **meters.report()}
