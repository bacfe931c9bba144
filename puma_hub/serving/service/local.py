"""The back end ``local``: the LLM runs in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from puma_hub.bank.fit import require_scorer
from puma_hub.errors import UnsupportedModelError
from puma_hub.pipelines.generation import PersonalizedTextGenerationPipeline
from puma_hub.pipelines.scoring import PersonalizedScoringPipeline
from puma_hub.serving.service.backend import Backend, BackendSetting, Row, Scored, TextRequest, TextStream
from puma_hub.serving.service.batching import Batcher
from puma_hub.serving.service.local_scores import LocalScores
from puma_hub.serving.service.local_texts import LocalTexts
from puma_hub.serving.service.refusal import Refusal
from puma_hub.serving.service.served_prompts import served

_log = logging.getLogger(__name__)
_TICK = 0.05


class LocalBackend(Backend):
    """A scorer with dynamic batching: rows and texts of several requests are worked on together.

    Rows and texts have a thread each, so a row does not wait until texts are written.

    Args:
        setting: what it is made from.

    Raises:
        MismatchError: LLM, template or task are not those of the prompts.
        StorageError, UnsupportedModelError, ...: as ``PersonalizedLM.from_pretrained``.
    """

    def __init__(self, setting: BackendSetting) -> None:
        lm, prompts = setting.load_lm(), served(setting.prompts)
        require_scorer(prompts, lm, "the service")
        self.offset_column = lm.task.offset_column
        self._fingerprint = lm.spec.fingerprint
        scoring = PersonalizedScoringPipeline(lm, bank=prompts)
        if setting.unknown_users == "mean":
            _ = scoring.prompts.mean  # computed before the first request
        self._scores = LocalScores(scoring, setting.unknown_users, _batcher("scores", setting))
        self._batchers: dict[str, Batcher[Any]] = {"scores": self._scores.batcher}
        self._texts: LocalTexts | None = None
        try:
            writing = PersonalizedTextGenerationPipeline(lm, bank=prompts)
        except UnsupportedModelError as error:
            _log.warning("this LLM scores rows and continues no texts: %s", error)
        else:
            self._texts = LocalTexts(writing, setting.unknown_users, _batcher("texts", setting))
            self._batchers["texts"] = self._texts.batcher

    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        return await self._scores.score(rows)

    async def stream(self, request: TextRequest) -> TextStream:
        if self._texts is None:
            raise Refusal(400, "this service's LLM scores rows and continues no texts", "unsupported", param="model")
        return replace(await self._texts.stream(request), fingerprint=self._fingerprint)

    def waiting(self) -> dict[str, int]:
        return {name: len(batcher) for name, batcher in self._batchers.items()}

    async def close(self, seconds: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time() + seconds
        for batcher in self._batchers.values():
            batcher.close()
        while loop.time() < last and not all(batcher.ended for batcher in self._batchers.values()):
            await asyncio.sleep(_TICK)
        for batcher in self._batchers.values():
            batcher.abandon()


def _batcher(queue: str, setting: BackendSetting) -> Callable[[Callable[[Sequence[Any]], None]], Batcher[Any]]:
    """Makes the queue of that name from the function that works on a batch."""
    limits, meters = setting.limits, setting.meters
    return partial(
        Batcher,
        name=queue,
        size=limits.max_batch_size if queue == "scores" else limits.max_texts,
        wait=limits.max_wait_ms / 1000,
        most=limits.queue,
        begun=partial(meters.batch, queue),
    )
