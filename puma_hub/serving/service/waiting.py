"""Waiting for an answer as long as its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.types import Receive

from puma_hub.serving.service.json_body import Disconnected
from puma_hub.serving.service.refusal import too_late

Result = TypeVar("Result")


async def wanted(work: Awaitable[Result], receive: Receive, seconds: float) -> Result:
    """The result of ``work``, which is cancelled when its client goes away, or when ``seconds`` are over.

    Raises:
        Disconnected: the client has gone.
        Refusal: the time is over.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    why: list[Exception] = []

    def end(reason: Exception) -> None:
        if not why:
            why.append(reason)
            task.cancel()  # type: ignore[union-attr]

    timer = loop.call_later(seconds, lambda: end(too_late(seconds)))
    listener = loop.create_task(_gone(receive, end))
    try:
        return await work
    except asyncio.CancelledError:
        if not why:
            raise  # the server itself ends the request
        raise why[0] from None
    finally:
        timer.cancel()
        listener.cancel()


async def _gone(receive: Receive, end: Callable[[Exception], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    end(Disconnected())
