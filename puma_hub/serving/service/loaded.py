"""The versions that are loaded, and which of them answers a user."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import torch

from puma_hub.serving.prompts import Prompts
from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.version import Version
from puma_hub.serving.service.backend import Backend, Piece, Row, Scored, TextRequest, TextStream

_TICK = 0.05


class Loaded:
    """A version that answers.

    Args:
        version: as the deployment file has it.
        backend: made for it.
        prompts: of its users.
    """

    def __init__(self, version: Version, backend: Backend, prompts: Prompts) -> None:
        self.version, self.backend, self.prompts = version, backend, prompts
        self.using = 0

    @property
    def name(self) -> str:
        return self.version.name

    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        self.using += 1
        try:
            return await self.backend.score(rows)
        finally:
            self.using -= 1

    async def stream(self, request: TextRequest) -> TextStream:
        self.using += 1
        try:
            stream = await self.backend.stream(request)
        except BaseException:
            self.using -= 1
            raise
        return replace(stream, version=self.name, pieces=self._pieces(stream.pieces))

    async def _pieces(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        try:
            async with aclosing(pieces) as found:  # type: ignore[type-var]
                async for piece in found:
                    yield piece
        finally:
            self.using -= 1

    async def end(self, seconds: float) -> None:
        """Close the back end when nobody uses it any more, or after ``seconds``."""
        last = asyncio.get_running_loop().time() + seconds
        while self.using and (left := last - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(_TICK, left))
        await self.backend.close(max(0.0, last - asyncio.get_running_loop().time()))


@dataclass(frozen=True)
class Standing:
    """A deployment with its versions loaded, in the deployment's order."""

    deployment: Deployment
    loaded: tuple[Loaded, ...]

    def answers(self, user_id: str) -> Loaded:
        """What answers a user. Where only one version has the user's prompt, it does, whatever the split says."""
        first = self.loaded[len(self.loaded) > 1 and self.deployment.split.takes(user_id)]
        other = self.other(first)
        if other is None or _has(first, user_id) or not _has(other, user_id):
            return first
        return other

    def other(self, one: Loaded) -> Loaded | None:
        return next((two for two in self.loaded if two is not one), None)


def _has(loaded: Loaded, user_id: str) -> bool:
    """Whether a version has the user's prompt; if that cannot be read, the back end says why."""
    try:
        return user_id in loaded.prompts
    except Exception:  # of a disk, a store, an extension: other users' rows are answered
        return True


def free_memory() -> None:
    """Give back what a closed version had. Models hold themselves in circles, so this needs the collector."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # C libraries other than glibc do it by themselves, or not at all.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
