"""Rows of interactions as token ids: a prefix before the slot and a suffix after it, each kept once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from puma_hub.errors import InteractionsError, TemplateError
from puma_hub.scorer.tokens import TextTokenizer, Tokens
from puma_hub.tasks.template import Parts, PromptTemplate

_log = logging.getLogger(__name__)
_SHOWN = 5  # row numbers in an error
Halves = tuple[Parts, Parts]  # of a row's text: before the slot, and after it


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Tokenised rows; row ``i`` is ``prefixes[i]``, the soft prompt, ``suffixes[i]``.

    Equal texts are one object, so a row costs 17 bytes. ``cut (N,)`` bool: whether an item's text was shortened.
    """

    prefixes: list[Tokens]
    suffixes: list[Tokens]
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.prefixes)

    @property
    def truncated(self) -> int:
        """How many rows show less than their item's text."""
        return int(self.cut.sum())

    def take(self, indices: Iterable[int]) -> EncodedRows:
        """Return the rows at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        return EncodedRows(
            [self.prefixes[i] for i in chosen],
            [self.suffixes[i] for i in chosen],
            self.cut[np.asarray(chosen, dtype=np.int64)],
        )


class RowEncoder:
    """Tokenises rows with a template.

    Args:
        max_length: positions the model has.
        truncate_items: shorten the items' texts at their end where a row does not fit.
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

    def encode(self, rows: Iterable[Mapping[str, Any]], prompt_length: int = 1) -> EncodedRows:
        """Tokenise ``rows``.

        Raises:
            InteractionsError: ``rows`` are no rows.
            TemplateError: rows with their prompts do not fit the model's context, or one has no position to score.
            InteractionsError: a row lacks its item's text, or its history is no list of texts.
        """
        numbers: dict[Halves, int] = {}
        first: list[Mapping[str, Any]] = []  # rows of each text
        of_row: list[int] = []
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise InteractionsError(f"rows must be a list of rows or a dataset, got {type(rows).__name__}")
        for row in rows:
            if not isinstance(row, Mapping):
                raise InteractionsError(f"a row must be a mapping of columns to values, got {type(row).__name__}")
            number = numbers.setdefault(self.template.parts(row), len(first))
            if number == len(first):
                first.append(row)
            of_row.append(number)
        encoded = self._encoded(list(numbers))
        limit = self.max_length - prompt_length
        long = [number for number, text in enumerate(encoded) if _length(text) > limit]
        if self.truncate_items:
            for number in long:
                encoded[number] = self._shortened(first[number], limit)
        cut = np.zeros(len(encoded), dtype=bool)
        cut[long] = self.truncate_items
        long = [number for number in long if _length(encoded[number]) > limit]
        self._require_fitting(long, encoded, of_row, prompt_length)
        if not all(len(suffix) + prompt_length for _, suffix in encoded):
            raise TemplateError("a row has no position to score; give the prompt a length of 1 or more")
        prefixes, suffixes = [encoded[number][0] for number in of_row], [encoded[number][1] for number in of_row]
        found = EncodedRows(prefixes, suffixes, cut[np.asarray(of_row, dtype=np.int64)])
        if found.truncated:
            _log.warning("the item's text was cut at its end in %d of %d rows", found.truncated, len(found))
        return found

    def _encoded(self, texts: Sequence[Halves]) -> list[tuple[Tokens, Tokens]]:
        before = self.text.of([parts for parts, _ in texts], follows=False)
        after = self.text.of([parts for _, parts in texts], follows=True)
        prefixes = {parts: self.text.leading + tokens for parts, tokens in before.items()}
        return [(prefixes[first], after[last]) for first, last in texts]

    def _shortened(self, row: Mapping[str, Any], limit: int) -> tuple[Tokens, Tokens]:
        """The row with the longest beginning of its item's text that fits, or with none of it."""
        text = str(row.get("item_text", ""))

        def kept(signs: int) -> tuple[Tokens, Tokens]:
            return self._encoded([self.template.parts({**row, "item_text": text[:signs]})])[0]

        low, high = 0, min(len(text), max(1, limit))  # a text of so many signs may fit, or not
        while high < len(text) and _length(kept(high)) <= limit:
            low, high = high, min(len(text), 2 * high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _length(kept(middle)) <= limit else (low, middle)
        return kept(low)

    def _require_fitting(
        self, long: list[int], encoded: list[tuple[Tokens, Tokens]], of_row: list[int], prompt_length: int
    ) -> None:
        if not long:
            return
        texts = set(long)
        rows = [row for row, number in enumerate(of_row) if number in texts]
        longest = max(_length(encoded[number]) for number in long) + prompt_length
        remedy = "shorten item_text, or cut it with truncate_items=True (--truncate-items)"
        if self.truncate_items:
            remedy = "without its item's text too; shorten the template or the history, or take shorter prompts"
        if len(of_row) == 1:
            raise TemplateError(
                f"the row needs {longest} positions with its prompt, the model has {self.max_length}; {remedy}"
            )
        shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
        raise TemplateError(
            f"{len(rows)} of {len(of_row)} rows (numbers {shown}, from 0) need up to {longest} positions with their "
            f"prompts, the model has {self.max_length}; {remedy}"
        )


def _length(text: tuple[Tokens, Tokens]) -> int:
    return len(text[0]) + len(text[1])


def left_padded(
    sequences: Sequence[Tokens], device: torch.device, width: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids ``(B, n)`` padded on the left with 0, and their boolean mask; ``n`` is ``width`` if given."""
    if width is None:
        width = max((len(s) for s in sequences), default=0)
    ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in sequences], dtype=torch.long, device=device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = torch.arange(width, device=device)[None] >= width - lengths[:, None]
    return ids.reshape(len(sequences), width), mask


def right_padded(sequences: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids ``(B, n)`` padded on the right with 0, and their boolean mask."""
    width = max((len(s) for s in sequences), default=0)
    ids = torch.tensor([list(s) + [0] * (width - len(s)) for s in sequences], dtype=torch.long, device=device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = torch.arange(width, device=device)[None] < lengths[:, None]
    return ids.reshape(len(sequences), width), mask
