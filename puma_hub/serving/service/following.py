"""Following a deployment file: noticing a change, loading what is new beside what is served, and switching."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from puma_hub.errors import PumaHubError
from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.file import DeploymentFile, Stamp

_log = logging.getLogger(__name__)
_SECONDS = 0.5  # between two looks at the file
_RETRIES = 60  # looks after which a state that could not be loaded is tried again


class Follower:
    """Looks at a deployment file in a thread of its own.

    A file that is gone or cannot be read, and versions that cannot be loaded, change nothing: what is served stays.
    A state that the file no longer has when its versions are loaded is not served either.

    Args:
        file: of the deployment.
        stamp: of its state that is served already.
        prepare: loads a deployment, in this thread; what it gives is called in the event loop.
        say: takes a line of progress.

    Attributes:
        problem: why the file's present state cannot be served; None if it can. It is tried again at times.
        busy: whether a state that was found is not served yet: its versions are being loaded.
    """

    def __init__(
        self,
        file: DeploymentFile,
        stamp: Stamp | None,
        prepare: Callable[[Deployment], Callable[[], None]],
        say: Callable[[str], None],
    ) -> None:
        self._file, self._seen, self._prepare, self._say = file, stamp, prepare, say
        self._stopped = threading.Event()
        self.problem: str | None = None
        self.busy = False

    def start(self) -> None:
        """Begin; called in the event loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name="puma-hub-deployment", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        waited = 0
        while not self._stopped.wait(_SECONDS):
            stamp = self._file.stamp()
            waited = 0 if self.problem is None else waited + 1
            if stamp == self._seen and waited < _RETRIES:
                continue
            self._seen, waited, self.busy = stamp, 0, True
            try:
                switch = self._prepare(self._file.read())
                if self._file.stamp() == stamp:
                    self._switch(loop, switch)
            except Exception as error:
                self._fail(error)
            self.busy = False

    def _switch(self, loop: asyncio.AbstractEventLoop, switch: Callable[[], None]) -> None:
        """Switch, and wait until it is done: the next state is prepared beside this one."""
        done = threading.Event()

        def switched() -> None:
            try:
                if not self._stopped.is_set():
                    self.problem = None
                    switch()
            finally:
                done.set()

        with suppress(RuntimeError):  # the service has stopped meanwhile
            loop.call_soon_threadsafe(switched)
            while not done.wait(_SECONDS) and not self._stopped.is_set():
                pass

    def _fail(self, error: Exception) -> None:
        before, self.problem = self.problem, str(error)
        if not isinstance(error, PumaHubError):
            self.problem = f"unexpected {type(error).__name__}"
            if self.problem != before:
                _log.error("the deployment file's new state cannot be loaded", exc_info=error)
        if self.problem != before:
            self._say(f"what is served stays as it is: {self.problem}")
