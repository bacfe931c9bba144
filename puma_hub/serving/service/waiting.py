"""Waiting for a request's body, and for its answer as long as its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from starlette.types import Receive

from puma_hub.serving.service.refusal import too_late

Result = TypeVar("Result")


class Disconnected(Exception):
    """The client has gone; nobody reads an answer."""


class Within:
    """Inside, the current task ends with ``late`` when ``seconds`` are over, or earlier by :meth:`end`.

    As ``asyncio.timeout``, which Python 3.10 does not have; no task is made for it.
    """

    def __init__(self, seconds: float, late: Exception) -> None:
        self._seconds, self._late = seconds, late
        self._reason: Exception | None = None

    def __enter__(self) -> Within:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.end, self._late)
        return self

    def end(self, reason: Exception) -> None:
        """End the task with an error."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        if self._reason is not None and isinstance(error, asyncio.CancelledError):
            raise self._reason from None


async def wanted(work: Awaitable[Result], receive: Receive, seconds: float) -> Result:
    """The result of ``work``, which is cancelled when its client goes away, or when ``seconds`` are over.

    Raises:
        Disconnected: the client has gone.
        Refusal: the time is over.
    """
    with Within(seconds, too_late(seconds)) as within:
        listener = asyncio.ensure_future(_gone(receive, within))
        try:
            return await work
        finally:
            listener.cancel()


async def _gone(receive: Receive, within: Within) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    within.end(Disconnected())
