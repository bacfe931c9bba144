"""Tokenising texts. Users' words never become control tokens, and text after a soft prompt is a continuation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from puma_hub.errors import InteractionsError, TemplateError
from puma_hub.tasks.template import Part, Parts

Tokens = tuple[int, ...]

# Characters to put before a text to tokenise it as a continuation. The first one that the tokenizer does not merge with
# the text is used.
_ANCHORS = ("\n", ":", ".", "a", "1")
_PROBES = ("user", " user", "\nuser")
# In brackets or bars: the usual spelling of control tokens that a tokenizer does not mark as special.
_LOOKS_LIKE_CONTROL = re.compile(r"\s*[^\w\s].*\w.*[^\w\s]\s*", re.DOTALL)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CUTS = range(0xFDD0, 0xFDF0)  # code points that do not occur in text (Unicode noncharacters)


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens that the tokenizer puts before every text, such as ``<bos>``, without those it puts after it."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    with_special = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(with_special)) if with_special[i : i + len(probe)] == probe), 0)
    return tuple(with_special[:start])


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that users' words must not become: special tokens, and added tokens that are written like them.

    Other added tokens, such as words or runs of spaces, are ordinary text.
    """
    special = set(tokenizer.all_special_tokens)
    return {
        token.content: number
        for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()  # mistral-common's has none
        if token.content.strip()
        and (token.special or token.content in special or _LOOKS_LIKE_CONTROL.fullmatch(token.content))
    }


class TextTokenizer:
    """Tokenises texts that are made of a template's own words and of given words, such as item texts.

    Own words may contain control tokens. In given words, the name of a control token stays ordinary text: the text is
    cut inside the name, and the pieces are tokenised separately. All other texts are tokenised whole, so that a token
    may span own and given words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.leading = leading_tokens(tokenizer)
        control = control_tokens(tokenizer)
        self._ids = frozenset(control.values()) - {tokenizer.unk_token_id}  # unknown words may become that one
        spelled = [re.escape(text) for text in sorted(control, key=lambda text: (-len(text), text))]
        self._control = re.compile("|".join(spelled) or r"(?!)")
        self._first = re.compile("|".join(sorted({re.escape(text[0]) for text in control})) or r"(?!)")
        self._anchors = [(sign, ids) for sign in _ANCHORS if self._is_whole(ids := self._plain([sign])[0])]
        # Some tokenizers put a space before every text.
        self._begins_otherwise = any(map(self._differs_behind_text, _PROBES))

    def of(self, texts: Sequence[Parts], follows: bool) -> dict[Parts, Tokens]:
        """The token ids of each distinct text.

        Args:
            follows: the texts continue something, such as a soft prompt. If False, they are the beginning of a text.

        Raises:
            TemplateError: a text contains a control token that this tokenizer cannot write as text.
            InteractionsError: texts contain halves of UTF-16 pairs.
        """
        distinct = list(dict.fromkeys(texts))
        joined = {parts: "".join(part.text for part in parts) for parts in distinct}
        _require_text(joined.values())
        cuts = {parts: self._cut_places(parts, text) for parts, text in joined.items()}
        whole = [parts for parts in distinct if not cuts[parts]]
        tokens = dict(zip(whole, self._whole([joined[parts] for parts in whole], follows)))
        for parts in distinct:
            own = sum(len(self._control.findall(part.text)) for part in parts if not part.given)
            if cuts[parts] or self._control_count(tokens[parts]) > own:
                tokens[parts] = self._in_pieces(parts, joined[parts], cuts[parts], follows, own)
        return tokens

    def following(self, text: str) -> Tokens:
        """Token ids of own words that continue a text."""
        parts = (Part(text, False),)
        return self.of([parts], follows=True)[parts]

    # Texts that a chat template renders

    def guarded(self, value: Any) -> tuple[Any, str]:
        """Mark names of control tokens in ``value``, which holds strings or lists and dicts of them, as ordinary text.

        Returns ``value`` with a cut character inside these names, and that character. :meth:`of_guarded` removes it.
        """
        held = "".join(_strings(value))
        _require_text([held])
        cut = next((chr(code) for code in _CUTS if chr(code) not in held), "")
        if not cut:
            raise TemplateError(
                "messages contain all code points from U+FDD0 to U+FDEF, which are no text; remove them"
            )
        return self._with_cuts(value, cut), cut

    def of_guarded(self, text: str, cut: str, follows: bool) -> Tokens:
        """Token ids of a text from :meth:`guarded`, in which ``cut`` marks names of control tokens as text.

        Raises:
            TemplateError: the text contains a control token that this tokenizer cannot write as text.
        """
        pieces = text.split(cut)
        tokens = self._joined(pieces, follows)
        self._require(tokens, sum(len(self._control.findall(piece)) for piece in pieces))
        return tokens

    def _with_cuts(self, value: Any, cut: str) -> Any:
        if isinstance(value, str):
            return cut.join(_pieces(value, [start + 1 for start, _ in self._occurrences(value)]))
        if isinstance(value, Mapping):
            return {key: self._with_cuts(part, cut) for key, part in value.items()}
        return [self._with_cuts(part, cut) for part in value] if isinstance(value, (list, tuple)) else value

    # Control tokens in texts

    def _occurrences(self, text: str) -> Iterator[tuple[int, int]]:
        """Where names of control tokens begin and end, also inside one another."""
        position = 0
        if not self._first.search(text):
            return
        while (found := self._control.search(text, position)) is not None:
            yield found.span()
            position = found.start() + 1

    def _cut_places(self, parts: Parts, text: str) -> list[int]:
        """The positions where ``text`` has to be cut so that no given word becomes a control token."""
        own, position = [], 0
        for part in parts:
            if not part.given:
                own.append((position, position + len(part.text)))
            position += len(part.text)
        return [
            start + 1
            for start, end in self._occurrences(text)
            if not any(first <= start and end <= last for first, last in own)
        ]

    def _in_pieces(self, parts: Parts, text: str, cuts: list[int], follows: bool, own: int) -> Tokens:
        tokens = self._joined(_pieces(text, cuts), follows)
        if self._control_count(tokens) > own:  # a normaliser, or the vocabulary, makes a control token of other text
            tokens = self._joined(_pieces(text, sorted({*cuts, *self._word_cuts(parts)})), follows)
        self._require(tokens, own)
        return tokens

    def _word_cuts(self, parts: Parts) -> Iterator[int]:
        """All positions inside given words that become control tokens."""
        position = 0
        for part in parts:
            for word in re.finditer(r"\S+", part.text) if part.given else ():
                if self._control_count(self._whole([word.group()], True)[0]):
                    yield from range(position + word.start(), position + word.end() + 1)
            position += len(part.text)

    def _control_count(self, tokens: Tokens) -> int:
        return 0 if self._ids.isdisjoint(tokens) else sum(token in self._ids for token in tokens)

    def _require(self, tokens: Tokens, own: int) -> None:
        if self._control_count(tokens) > own:
            found = next(token for token in tokens if token in self._ids)
            raise TemplateError(
                f"a text holds {self._tokenizer.convert_ids_to_tokens(found)!r}, a control token that this tokenizer "
                "cannot write as text; remove it from the text"
            )

    # Plain tokenising

    def _plain(self, texts: list[str]) -> list[Tokens]:
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [tuple(tokens) for tokens in ids]

    def _joined(self, pieces: Sequence[str], follows: bool) -> Tokens:
        tokens: list[int] = []
        for number, piece in enumerate(pieces):
            tokens += self._whole([piece], follows or number > 0)[0]
        return tuple(tokens)

    def _whole(self, texts: Sequence[str], follows: bool) -> list[Tokens]:
        filled = [text for text in texts if text]
        tokens = self._following(filled) if follows and self._begins_otherwise else self._plain(filled)
        found = dict(zip(filled, tokens))
        return [found.get(text, ()) for text in texts]

    def _following(self, texts: list[str]) -> list[Tokens]:
        found: dict[str, Tokens] = {}
        for sign, head in self._anchors:
            left = [text for text in texts if text not in found]
            for text, ids in zip(left, self._plain([sign + text for text in left])):
                if ids[: len(head)] == head:
                    found[text] = ids[len(head) :]
        left = [text for text in texts if text not in found]
        found |= dict(zip(left, self._plain(left)))  # merged with every character: tokenise alone
        return [found[text] for text in texts]

    def _differs_behind_text(self, text: str) -> bool:
        whole = [(head, self._plain([sign + text])[0]) for sign, head in self._anchors]
        found = [ids[len(head) :] for head, ids in whole if ids[: len(head)] == head]
        return bool(found) and self._plain([text])[0] not in found

    def _is_whole(self, ids: Tokens) -> bool:
        return bool(ids) and self._tokenizer.unk_token_id not in ids


def _require_text(texts: Collection[str]) -> None:
    """Check that texts contain no lone surrogates, which tokenizers cannot read.

    Raises:
        InteractionsError: some texts contain them.
    """
    bad = sum(_SURROGATE.search(text) is not None for text in texts)
    if bad:
        raise InteractionsError(
            f"{bad} of {len(texts)} texts hold halves of UTF-16 pairs (U+D800 to U+DFFF), which are no text; repair "
            'them with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
        )


def _pieces(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted(cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)
