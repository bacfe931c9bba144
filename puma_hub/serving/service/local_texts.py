"""Continuing texts in this process, those of several requests together."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from puma_hub.pipelines.generation import PersonalizedTextGenerationPipeline
from puma_hub.scorer.encoding import text_length
from puma_hub.scorer.models import max_positions
from puma_hub.serving.service.backend import Finish, Piece, Sampling, TextRequest, TextStream
from puma_hub.serving.service.batching import Batcher
from puma_hub.serving.service.sampling import RowSampling, seeds_of
from puma_hub.serving.service.writing import Decoder, Writer, Writers


@dataclass
class _Answers:
    """What was written for a request, as its event loop gets it."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    gone: bool = False

    def put(self, found: Piece | Exception) -> None:
        """Called in any thread."""
        if not self.gone:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, found)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One answer that is to be written."""

    index: int
    prepared: dict[str, Any]
    width: int
    most: int
    sampling: Sampling
    seed: int
    answers: _Answers

    @property
    def gone(self) -> bool:
        return self.answers.gone

    def fail(self, error: Exception) -> None:
        self.answers.put(error)

    def write(self, text: str, finish: Finish | None, tokens: int) -> None:
        self.answers.put(Piece(self.index, text, finish, tokens))


class LocalTexts:
    """Continues texts with a pipeline, which looks up each user's own prompt.

    Args:
        pipeline: of a bank.
        unknown_users: ``error`` or ``mean``.
        batcher: makes the queue, given what works on a batch.
    """

    def __init__(
        self,
        pipeline: PersonalizedTextGenerationPipeline,
        unknown_users: str,
        batcher: Callable[[Callable[[Sequence[_Entry]], None]], Batcher[_Entry]],
    ) -> None:
        self._pipeline, self._unknown_users = pipeline, unknown_users
        self._generator = pipeline.generator
        self._longest = max_positions(self._generator.model)
        self._config = _plain_config(self._generator.model)
        self._ends = _end_tokens(self._config)
        self.batcher = batcher(self._work)

    async def stream(self, request: TextRequest) -> TextStream:
        """See :meth:`puma_hub.serving.service.backend.Backend.stream`."""
        loop = asyncio.get_running_loop()
        # In another thread, since a chat template or a look-up on disk may take its time.
        prepared = await loop.run_in_executor(None, self._prepared, request)
        answers = _Answers(loop)
        seeds = seeds_of(request.sampling, len(prepared) * request.sampling.n)
        entries = []
        for number, seed in enumerate(seeds):
            one = prepared[number // request.sampling.n]
            width = text_length(one["parts"]) + len(one["prompt"])
            most = min(request.sampling.max_tokens, self._longest - width)
            entries.append(_Entry(number, one, width, most, request.sampling, seed, answers))
        self.batcher.submit(entries)
        widths = (entry.width for entry in entries[:: request.sampling.n])
        return TextStream(sum(widths), prepared[0].get("cold_start"), self._pieces(answers, len(entries)))

    def _prepared(self, request: TextRequest) -> list[dict[str, Any]]:
        found = []
        for text in request.texts:
            given = {"text" if isinstance(text, str) else "messages": text, "user_id": request.user_id}
            found.append(self._pipeline.preprocess(given, unknown_users=self._unknown_users))
            self._pipeline.admit(found[-1], max_new_tokens=1)
        return found

    async def _pieces(self, answers: _Answers, left: int) -> AsyncIterator[Piece]:
        try:
            while left:
                found = await answers.queue.get()
                if isinstance(found, Exception):
                    raise found
                left -= found.finish is not None
                yield found
        finally:
            answers.gone = True
            if left:
                self.batcher.forget_gone()

    def _work(self, entries: Sequence[_Entry]) -> None:
        """Continue the texts of a batch. A text that cannot be continued does not keep the others from it."""
        for group in _groups(entries, self._longest, self._generator.joins_lengths):
            self._continue(group)

    def _continue(self, entries: Sequence[_Entry]) -> None:
        tokenizer = self._generator.tokenizer
        writers = [
            Writer(Decoder(tokenizer), entry.sampling.stop, self._ends, entry.most, entry.write) for entry in entries
        ]
        sampling = RowSampling([entry.sampling for entry in entries], [entry.seed for entry in entries])
        config = copy.deepcopy(self._config)
        config.max_new_tokens = max(entry.most for entry in entries)
        try:
            self._generator.generate(
                [entry.prepared["parts"] for entry in entries],
                [entry.prepared["prompt"] for entry in entries],
                generation_config=config,
                logits_processor=LogitsProcessorList([sampling]),
                stopping_criteria=StoppingCriteriaList([Writers(writers, entries)]),
            )
        except Exception as error:
            if len(entries) > 1 and not any(writer.tokens for writer in writers):
                for entry in entries:
                    self._continue([entry])
                return
            for entry, writer in zip(entries, writers):
                if not writer.done:
                    entry.fail(error)


def _groups(entries: Sequence[_Entry], longest: int, joins_lengths: bool) -> list[list[_Entry]]:
    """Entries that can be continued together.

    A row that is done still gets positions, as many as the others need. So the longest text and the most new tokens of
    a group fit the model together.
    """
    groups: list[list[_Entry]] = []
    for entry in entries:
        for group in groups:
            width = max(entry.width, *(one.width for one in group))
            most = max(entry.most, *(one.most for one in group))
            if width + most <= longest and (joins_lengths or entry.width == group[0].width):
                group.append(entry)
                break
        else:
            groups.append([entry])
    return groups


def _plain_config(model: PreTrainedModel) -> GenerationConfig:
    """The model's own settings without those of sampling, which requests have."""
    config: Any = copy.deepcopy(model.generation_config)
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length"):
        setattr(config, name, None)
    config.do_sample, config.num_beams, config.num_return_sequences = False, 1, 1
    config.return_dict_in_generate = False
    ends = _end_tokens(config)
    if config.pad_token_id is None and ends:
        config.pad_token_id = min(ends)  # fills the rows that are done
    return config


def _end_tokens(config: Any) -> frozenset[int]:
    ends = config.eos_token_id
    return frozenset(() if ends is None else [ends] if isinstance(ends, int) else ends)
