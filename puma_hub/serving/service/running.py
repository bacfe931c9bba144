"""Running the service: its address, loading the model behind it, signals and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn

from puma_hub.errors import ConfigurationError, PumaHubError
from puma_hub.serving.service.app import create_app
from puma_hub.serving.service.backend import Backend
from puma_hub.serving.service.service import Service

_LAST_PORT = 65535
_BACKLOG = 2048
_IDLE_SECONDS = 75  # of a connection between requests; longer than load balancers keep theirs


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its address as a URL; port 0 is a free one.

    Raises:
        ConfigurationError: the host is unknown, or the port is taken or not allowed.
    """
    if not 0 <= port <= _LAST_PORT:  # the resolver would take the remainder
        raise ConfigurationError(f"a port is a number from 0 to {_LAST_PORT}, got {port}")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {_reason(error)}") from error
    with bound:
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
            bound.listen(_BACKLOG)  # so that who is told the address can connect, and waits
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {host}, port {port}: {_reason(error)}; choose another --port, or 0 for a free one"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        yield bound, f"http://{shown}:{bound.getsockname()[1]}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _Server(uvicorn.Server):
    """Uvicorn's server within what :class:`Running` does before and after."""

    def __init__(self, config: uvicorn.Config, around: Callable[[Awaitable[None]], Awaitable[None]]) -> None:
        super().__init__(config)
        self._around = around

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._around(super().serve(sockets))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would end the process by the same signal again."""
        yield


class Running:
    """A service that listens. It accepts requests at once, and answers them when its model is loaded.

    Args:
        service: what is served.
        load: makes the back end; called in another thread.
        bound: the socket.
        said: told when the model is loaded, and when the service stops.
    """

    def __init__(
        self, service: Service, load: Callable[[], Backend], bound: socket.socket, said: Callable[[str], None]
    ) -> None:
        self._service, self._load, self._bound, self._said = service, load, bound, said
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            # Accepted requests are ended by the back end; this is for connections that do not close after that.
            timeout_graceful_shutdown=int(service.limits.grace) + 5,
        )
        self._server = _Server(config, self._serve)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Serve until :meth:`stop`, SIGTERM or SIGINT. A second signal ends it without waiting for requests.

        Raises:
            PumaHubError: the model cannot be loaded.
        """
        self._server.run([self._bound])
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop accepting, finish what was accepted, and return from :meth:`run`. May be called in any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    async def _serve(self, served: Awaitable[None]) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):  # on Windows
                    self._loop.add_signal_handler(number, self._stop)
        threading.Thread(target=self._load_backend, name="puma-hub-load", daemon=True).start()
        await served
        if self._closing is not None:
            await self._closing

    def _load_backend(self) -> None:
        assert self._loop is not None
        try:
            backend = self._load()
        except BaseException as error:
            self._failure = error
            found: Callable[[], None] = self._stop
        else:
            found = partial(self._start, backend)
        with suppress(RuntimeError):  # the service has stopped meanwhile
            self._loop.call_soon_threadsafe(found)

    def _start(self, backend: Backend) -> None:
        try:
            self._service.start(backend)
        except PumaHubError as error:
            self._failure = error
            self._stop()
        else:
            self._said("ready")

    def _stop(self) -> None:
        if self._failure is None and not self._server.should_exit:
            self._said("stopping: finishing what was accepted")
        seconds = self._service.limits.grace
        if self._closing is not None:  # a second signal
            self._closing.cancel()
            self._server.force_exit, seconds = True, 0.0
        self._service.stopping = self._server.should_exit = True
        self._closing = asyncio.ensure_future(self._service.close(seconds))
