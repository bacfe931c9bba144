"""Scoring rows in this process, those of several requests together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from puma_hub.pipelines.scoring import PersonalizedScoringPipeline
from puma_hub.serving.service.backend import Row, Scored
from puma_hub.serving.service.batching import Batcher


class _Request:
    """Rows that are answered together."""

    def __init__(self, rows: int, loop: asyncio.AbstractEventLoop) -> None:
        self.found: list[Scored | Exception | None] = [None] * rows
        self.left = rows
        self.gone = False
        self.loop = loop
        self.answer: asyncio.Future[list[Scored | Exception]] = loop.create_future()

    def take(self, place: int, found: Scored | Exception) -> bool:
        """Keep the result of a row; whether it was the last that was missing."""
        if self.found[place] is not None:
            return False
        self.found[place] = found
        self.left -= 1
        return self.left == 0

    def finish(self) -> None:
        if not self.answer.done():
            self.answer.set_result([one for one in self.found if one is not None])


@dataclass(frozen=True)
class _Entry:
    row: Row
    place: int
    request: _Request

    @property
    def gone(self) -> bool:
        return self.request.gone

    def fail(self, error: Exception) -> None:
        if self.request.take(self.place, error):
            self.request.loop.call_soon_threadsafe(self.request.finish)


class LocalScores:
    """Scores rows with a pipeline, which looks up each row's own prompt.

    Args:
        pipeline: of a bank.
        unknown_users: ``error`` or ``mean``.
        batcher: makes the queue, given what works on a batch.
    """

    def __init__(
        self,
        pipeline: PersonalizedScoringPipeline,
        unknown_users: str,
        batcher: Callable[[Callable[[Sequence[_Entry]], None]], Batcher[_Entry]],
    ) -> None:
        self._pipeline, self._unknown_users = pipeline, unknown_users
        self.batcher = batcher(self._work)

    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        """See :meth:`puma_hub.serving.service.backend.Backend.score`."""
        request = _Request(len(rows), asyncio.get_running_loop())
        self.batcher.submit([_Entry(row, place, request) for place, row in enumerate(rows)])
        try:
            return await request.answer
        except asyncio.CancelledError:
            request.gone = True
            self.batcher.forget_gone()
            raise

    def _work(self, entries: Sequence[_Entry]) -> None:
        """Score the rows of a batch. A row that cannot be scored does not keep the others from it."""
        found = self._scored([entry.row for entry in entries])
        done = [entry.request for entry, one in zip(entries, found) if entry.request.take(entry.place, one)]
        for loop in {request.loop for request in done}:
            ours = [request for request in done if request.loop is loop]
            loop.call_soon_threadsafe(_finish, ours)  # one call wakes the event loop for all of them

    def _scored(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        found: list[Scored | Exception] = []
        prepared = []
        for row in rows:
            try:
                prepared.append(self._pipeline.preprocess(row, unknown_users=self._unknown_users))
                found.append({})
            except Exception as error:  # also of a disk or a store: it is this row's alone
                found.append(error)
        places = [place for place, one in enumerate(found) if not isinstance(one, Exception)]
        for place, one in zip(places, self._forward(prepared)):
            found[place] = one
        return found

    def _forward(self, prepared: list[dict[str, Any]]) -> list[Scored | Exception]:
        if not prepared:
            return []
        try:
            with torch.no_grad():
                outputs = self._pipeline._forward(prepared)
                logits = torch.stack([output["logits"] for output in outputs]).cpu()  # all at once from a GPU
                scores = torch.stack([output["score"] for output in outputs]).tolist()
            given = ({**output, "logits": row, "score": score} for output, row, score in zip(outputs, logits, scores))
            return [self._pipeline.postprocess(output) for output in given]
        except Exception as error:
            if len(prepared) == 1:
                return [error]
        return [one for row in prepared for one in self._forward([row])]


def _finish(requests: Sequence[_Request]) -> None:
    for request in requests:
        request.finish()
