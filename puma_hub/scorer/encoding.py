"""Rows of interactions as token ids: a prefix before the slot and a suffix after it, each kept once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from puma_hub.errors import TemplateError
from puma_hub.scorer.template import PromptTemplate

GROUP_SIZE = 32
Tokens = tuple[int, ...]


@dataclass(eq=False)
class PrefixGroup:
    """Prefixes of like length whose key/value cache is always computed together.

    A fixed group makes the cache of a prefix the same, bit for bit, whenever it is computed.
    """

    prefixes: list[Tokens]
    row_of: dict[Tokens, int] = field(init=False)

    def __post_init__(self) -> None:
        self.row_of = {prefix: row for row, prefix in enumerate(self.prefixes)}

    @property
    def length(self) -> int:
        return max(len(prefix) for prefix in self.prefixes)


@dataclass(frozen=True)
class EncodedRows:
    """Tokenised rows; row ``i`` is ``prefixes[i]``, the soft prompt, ``suffixes[i]``."""

    prefixes: list[Tokens]
    suffixes: list[Tokens]
    groups: list[PrefixGroup]

    def __len__(self) -> int:
        return len(self.prefixes)

    def take(self, indices: Iterable[int]) -> EncodedRows:
        """Return the rows at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        return EncodedRows(
            [self.prefixes[i] for i in chosen], [self.suffixes[i] for i in chosen], [self.groups[i] for i in chosen]
        )


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """What the tokenizer puts before every text, such as ``<bos>``."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    with_special = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(with_special)) if with_special[i : i + len(probe)] == probe), 0)
    return tuple(with_special[:start])


class RowEncoder:
    """Tokenises rows with a template and shares equal prefixes between all rows it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.leading = leading_tokens(tokenizer)
        self._groups: weakref.WeakValueDictionary[Tokens, PrefixGroup] = weakref.WeakValueDictionary()

    def _tokens(self, texts: list[str]) -> dict[str, Tokens]:
        distinct = [text for text in dict.fromkeys(texts) if text]
        ids = self.tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        return {"": (), **{text: tuple(tokens) for text, tokens in zip(distinct, ids)}}

    def encode(self, rows: Iterable[Mapping[str, Any]], prompt_length: int = 1) -> EncodedRows:
        """Tokenise ``rows``.

        Raises:
            TemplateError: a row with its prompt does not fit the model's context.
        """
        rendered = [self.template.render(row) for row in rows]
        before = self._tokens([text for text, _ in rendered])
        after = self._tokens([text for _, text in rendered])
        prefixes = [self.leading + before[text] for text, _ in rendered]
        suffixes = [after[text] for _, text in rendered]
        longest = max((len(p) + len(s) for p, s in zip(prefixes, suffixes)), default=0) + prompt_length
        if longest > self.max_length:
            raise TemplateError(
                f"a row needs {longest} positions with its prompt, the model has {self.max_length}; shorten item_text"
            )
        if not all(len(suffix) + prompt_length for suffix in suffixes):
            raise TemplateError("a row has no position to score; give the prompt a length of 1 or more")
        return EncodedRows(prefixes, suffixes, self._group(prefixes))

    def _group(self, prefixes: list[Tokens]) -> list[PrefixGroup]:
        known = {prefix: group for prefix in set(prefixes) if (group := self._groups.get(prefix)) is not None}
        new = sorted({p for p in prefixes if p not in known}, key=lambda p: (len(p), p))
        for start in range(0, len(new), GROUP_SIZE):
            group = PrefixGroup(new[start : start + GROUP_SIZE])
            for prefix in group.prefixes:
                self._groups[prefix] = known[prefix] = group
        return [known[prefix] for prefix in prefixes]


def left_padded(sequences: list[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids ``(B, n)`` padded on the left with 0, and their boolean mask."""
    width = max((len(s) for s in sequences), default=0)
    ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in sequences], dtype=torch.long, device=device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = torch.arange(width, device=device)[None] >= width - lengths[:, None]
    return ids.reshape(len(sequences), width), mask


def right_padded(sequences: list[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids ``(B, n)`` padded on the right with 0, and their boolean mask."""
    width = max((len(s) for s in sequences), default=0)
    ids = torch.tensor([list(s) + [0] * (width - len(s)) for s in sequences], dtype=torch.long, device=device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = torch.arange(width, device=device)[None] < lengths[:, None]
    return ids.reshape(len(sequences), width), mask
