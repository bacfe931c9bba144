"""Texts while they are written: tokens become pieces of text, which end at a stop text, an end token or a limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from puma_hub.serving.service.backend import Finish

_INCOMPLETE = "\ufffd"  # what tokenizers write for bytes that are no whole character yet


class Decoder:
    """Turns tokens into text as they come.

    A character of several tokens is written when it is whole. Few tokens are decoded at once, those since the last
    piece and the piece before: what a token is spelled as depends on the one in front of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._before = 0  # where the piece before begins
        self._written = 0  # the number of tokens that are written

    def add(self, token: int) -> str:
        """The text that is new."""
        self._ids.append(token)
        return self._new(False)

    def rest(self) -> str:
        """What is left at the end, incomplete characters too."""
        return self._new(True)

    def _new(self, last: bool) -> str:
        known = self._text(self._ids[self._before : self._written])
        whole = self._text(self._ids[self._before :])
        if len(whole) <= len(known) or (whole.endswith(_INCOMPLETE) and not last):
            return ""
        self._before, self._written = self._written, len(self._ids)
        return whole[len(known) :]

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Stops:
    """Finds stop texts in a text that comes in pieces, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """The text that is known to be of the answer, and whether a stop text has come."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], False

    def rest(self) -> str:
        """What was held back and is no stop text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that ``stop`` begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class Writer:
    """One answer.

    Args:
        decoder: of its tokens.
        stops: texts at which it ends.
        ends: tokens at which it ends.
        most: tokens.
        write: takes each new piece of text, and the reason with the last one.
    """

    def __init__(
        self,
        decoder: Decoder,
        stops: Sequence[str],
        ends: Collection[int],
        most: int,
        write: Callable[[str, Finish | None, int], None],
    ) -> None:
        self._decoder, self._stops, self._ends, self._most, self._write = decoder, Stops(stops), ends, most, write
        self.tokens = 0
        self.done = False

    def add(self, token: int) -> None:
        """Take a new token."""
        self.tokens += 1
        is_end = token in self._ends
        is_last = is_end or self.tokens >= self._most
        piece = "" if is_end else self._decoder.add(token)
        if is_last:
            piece += self._decoder.rest()
        text, stopped = self._stops.add(piece)
        if is_last and not stopped:
            text += self._stops.rest()
        self.done = is_last or stopped
        finish: Finish | None = ("stop" if is_end or stopped else "length") if self.done else None
        if text or self.done:
            self._write(text, finish, self.tokens)


class Asked(Protocol):
    """Whom an answer is for."""

    @property
    def gone(self) -> bool: ...


class Writers(StoppingCriteria):
    """Gives each row's new token to its writer, and ends rows that are done or that nobody wants any more."""

    def __init__(self, writers: Sequence[Writer], asked: Sequence[Asked]) -> None:
        self._writers, self._asked = writers, asked

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        for writer, asked, token in zip(self._writers, self._asked, input_ids[:, -1].tolist()):
            if not writer.done:
                writer.add(token)
            if asked.gone:
                writer.done = True
        done = [writer.done for writer in self._writers]
        return torch.tensor(done, device=input_ids.device)  # type: ignore[return-value]
