"""Rows of interactions as segments: token ids, and soft slots, the places of soft prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from puma_hub.errors import InteractionsError, TemplateError
from puma_hub.scorer.tokens import TextTokenizer, Tokens
from puma_hub.tasks.template import Parts, PromptTemplate, SoftSlot

_log = logging.getLogger(__name__)
_SHOWN = 5  # row numbers in an error

Segments = tuple[Tokens | SoftSlot, ...]
"""A row: tokens and soft slots in turn. The first and the last segment are tokens, which may be empty."""
_Texts = tuple[Parts | SoftSlot, ...]  # a row before it is tokenised


def text_length(row: Iterable[Tokens | SoftSlot]) -> int:
    """The number of text tokens in ``row``."""
    return sum(len(segment) for segment in row if not isinstance(segment, SoftSlot))


def with_tokens(row: Segments, tokens: Mapping[str, Sequence[int]]) -> list[int]:
    """The row as token ids, with ``tokens`` in place of its soft slots."""
    return [token for segment in row for token in (tokens[segment.name] if isinstance(segment, SoftSlot) else segment)]


@dataclass(frozen=True, eq=False)
class FilledSlot:
    """A soft slot whose prompts come with the rows: row ``i`` has ``prompts[of_row[i]]``.

    Args:
        slot: the name of the slot.
        prompts: float32 ``(M, l, d)``.
        of_row: int64 ``(N,)``.
    """

    slot: str
    prompts: torch.Tensor
    of_row: np.ndarray

    def rows(self) -> torch.Tensor:
        """The prompt of each row, ``(N, l, d)``."""
        return self.prompts[torch.from_numpy(self.of_row)]


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Tokenised rows.

    Equal rows share one object, so a row takes 9 bytes, and 8 more with a filled slot.

    Attributes:
        segments: of each row.
        cut: bool ``(N,)``, whether the item's text was shortened.
        filled: of two soft slots the one that is not open for the prompts that are scored.
    """

    segments: list[Segments]
    cut: np.ndarray
    filled: FilledSlot | None = None

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def prefixes(self) -> list[Tokens]:
        """The tokens of each row before its first soft slot. They do not depend on the prompts."""
        return [row[0] for row in self.segments]  # type: ignore[misc]

    @property
    def text_after(self) -> list[int]:
        """The number of text tokens in each row after its first soft slot."""
        return [text_length(row[1:]) for row in self.segments]

    @property
    def filled_length(self) -> int:
        """Positions that the prompt of the filled slot takes in a row."""
        return self.filled.prompts.shape[1] if self.filled is not None else 0

    @property
    def filled_by(self) -> list[int]:
        """The number of the prompt in each row's filled slot; 0 where there is no such slot."""
        return self.filled.of_row.tolist() if self.filled is not None else [0] * len(self)

    @property
    def truncated(self) -> int:
        """The number of rows whose item text was shortened."""
        return int(self.cut.sum())

    def texts(self) -> Iterator[Tokens]:
        """The texts of all different rows."""
        for row in {id(row): row for row in self.segments}.values():
            yield from (segment for segment in row if not isinstance(segment, SoftSlot))

    def listed(self) -> list[list[Any]]:
        """The rows as lists of token ids and names of soft slots."""
        return [[s.name if isinstance(s, SoftSlot) else s for s in row] for row in self.segments]

    def take(self, indices: Iterable[int]) -> EncodedRows:
        """Return the rows at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        numbers = np.asarray(chosen, dtype=np.int64)
        filled = self.filled and replace(self.filled, of_row=self.filled.of_row[numbers])
        return EncodedRows([self.segments[i] for i in chosen], self.cut[numbers], filled)


class RowEncoder:
    """Tokenises rows with a template.

    Args:
        max_length: the number of positions of the model.
        truncate_items: shorten the end of an item's text if the row does not fit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        max_length: int,
        truncate_items: bool = False,
    ) -> None:
        self.text = TextTokenizer(tokenizer)
        self.template = template
        self.max_length = max_length
        self.truncate_items = truncate_items

    def encode(self, rows: Iterable[Mapping[str, Any]], soft_length: int = 1) -> EncodedRows:
        """Tokenise ``rows``. The soft prompts of a row take ``soft_length`` positions in total.

        Raises:
            InteractionsError: ``rows`` are not rows, a row has no item text, or a history is not a list of texts.
            TemplateError: rows with their prompts do not fit the model's context, or a row has no position to score.
        """
        texts, of_row, first = self._distinct(rows)
        encoded = self._encoded(texts)
        limit = self.max_length - soft_length
        long = [number for number, row in enumerate(encoded) if text_length(row) > limit]
        cut = np.zeros(len(encoded), dtype=bool)
        if self.truncate_items:
            cut[long] = True
            for number in long:
                encoded[number] = self._shortened(first[number], limit)
        self._require_fitting(encoded, of_row, soft_length)
        if not all(text_length(row[1:]) + soft_length for row in encoded):
            raise TemplateError("a row has no position to score; give the prompt a length of 1 or more")
        found = EncodedRows([encoded[number] for number in of_row], cut[np.asarray(of_row, dtype=np.int64)])
        if found.truncated:
            _log.warning("the end of the item's text was cut off in %d of %d rows", found.truncated, len(found))
        return found

    def _distinct(self, rows: Iterable[Mapping[str, Any]]) -> tuple[list[_Texts], list[int], list[Mapping[str, Any]]]:
        """The distinct texts, the index of each row's text, and the first row with each text."""
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise InteractionsError(f"rows must be a list of rows or a dataset, got {type(rows).__name__}")
        numbers: dict[_Texts, int] = {}
        of_row: list[int] = []
        first: list[Mapping[str, Any]] = []
        for row in rows:
            if not isinstance(row, Mapping):
                raise InteractionsError(f"a row must be a mapping of columns to values, got {type(row).__name__}")
            number = numbers.setdefault(self.template.segments(row), len(first))
            if number == len(first):
                first.append(row)
            of_row.append(number)
        return list(numbers), of_row, first

    def _encoded(self, texts: Sequence[_Texts]) -> list[Segments]:
        first = [row[0] for row in texts if not isinstance(row[0], SoftSlot)]
        rest = [part for row in texts for part in row[1:] if not isinstance(part, SoftSlot)]
        prefixes = {parts: self.text.leading + tokens for parts, tokens in self.text.of(first, follows=False).items()}
        others = self.text.of(rest, follows=True)
        return [
            (prefixes[start], *(part if isinstance(part, SoftSlot) else others[part] for part in row[1:]))
            for start, row in zip(first, texts)
        ]

    def _shortened(self, row: Mapping[str, Any], limit: int) -> Segments:
        """The row with as much of the beginning of its item's text as fits, perhaps none."""
        text = str(row.get("item_text", ""))

        def kept(signs: int) -> Segments:
            return self._encoded([self.template.segments({**row, "item_text": text[:signs]})])[0]

        low, high = 0, min(len(text), max(1, limit))  # bisection over the number of characters kept
        while high < len(text) and text_length(kept(high)) <= limit:
            low, high = high, min(len(text), 2 * high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if text_length(kept(middle)) <= limit else (low, middle)
        return kept(low)

    def _require_fitting(self, encoded: list[Segments], of_row: list[int], soft_length: int) -> None:
        lengths = [text_length(row) + soft_length for row in encoded]
        longest = max(lengths, default=0)
        if longest <= self.max_length:
            return
        rows = [row for row, number in enumerate(of_row) if lengths[number] > self.max_length]
        remedy = "shorten item_text, or cut it with truncate_items=True (--truncate-items)"
        if self.truncate_items:
            remedy = "even without its item's text; shorten the template or the history, or take shorter prompts"
        if len(of_row) == 1:
            raise TemplateError(
                f"the row needs {longest} positions with its prompt, the model has {self.max_length}; {remedy}"
            )
        shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
        raise TemplateError(
            f"{len(rows)} of {len(of_row)} rows (numbers {shown}, counted from 0) need up to {longest} positions with "
            f"their prompts, the model has {self.max_length}; {remedy}"
        )
