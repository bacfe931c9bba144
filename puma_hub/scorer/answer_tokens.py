"""The tokens of the answers. Answers are spelled so that their first tokens differ."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from transformers import PreTrainedTokenizerBase

from puma_hub.errors import AnswerTokenError, ConfigurationError, MismatchError
from puma_hub.scorer.tokens import TextTokenizer, Tokens, control_tokens
from puma_hub.tasks.template import VALUES_OF_PRESETS, PromptTemplate


@dataclass(frozen=True)
class Answers:
    """The token ids of a task's answers, and the texts that begin with these tokens."""

    ids: list[int]
    texts: tuple[str, ...]

    def require_spelling(self, texts: Sequence[str] | None) -> None:
        """Check that prompts were trained with the same texts. ``texts`` is None if theirs are not known.

        Raises:
            MismatchError: they were trained with other texts.
        """
        if texts is not None and tuple(texts) != self.texts:
            first = next((i for i, pair in enumerate(zip(texts, self.texts)) if pair[0] != pair[1]), -1)
            raise MismatchError(
                f"the prompts were trained with other texts for the answers ({texts[first]!r} where this scorer has "
                f"{self.texts[first]!r}); use the tokenizer and the template of their training"
            )


def find_answers(
    tokenizer: PreTrainedTokenizerBase, text: TextTokenizer, template: PromptTemplate, answers: Sequence[str]
) -> Answers:
    """Find a spelling of each answer after the template, and its first token there.

    Three spellings are tried in turn:

    1. The answers themselves, with or without a space before them, if their first tokens differ.
    2. Numbers that the tokenizer would merge with the template's last character: their tokens when tokenised alone.
    3. Numbers whose first tokens are equal (``1`` and ``10``, ``0.5`` and ``0``): letters in their place. These are the
       first single tokens out of A to Z, a to z, AA to ZZ and aa to zz. They are tried with a space before them,
       without one, and tokenised alone; the variant that gets by with the earliest letters is used.

    Raises:
        AnswerTokenError: no spelling tells the answers apart.
        ConfigurationError: the template is a preset for other values.
    """
    of_preset = VALUES_OF_PRESETS.get(template.text)
    if of_preset is not None and tuple(answers) != of_preset:
        raise ConfigurationError(
            f"this template asks for whole numbers from {of_preset[0]} to {of_preset[-1]}, the task's answers are "
            f"{', '.join(answers[:3])}, ..., {answers[-1]}; use the template 'rating', or a text of your own"
        )
    # These last characters are enough: earlier text does not change the tokens.
    context = template.render({"item_text": "a", "history": ["a"]})[-1][-64:] or "Answer:"
    return _Search(tokenizer, text, context).found(answers)


class _Search:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: TextTokenizer, context: str) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._context = context
        self._head = text.following(context)
        self._never = {*control_tokens(tokenizer).values(), tokenizer.unk_token_id}
        self._separators = ("", " ") if context[-1].isspace() else (" ", "")
        self._seen: list[str] = []

    def found(self, answers: Sequence[str]) -> Answers:
        numbers = all(_is_number(answer) for answer in answers)
        for spell in (self._in_context, self._alone) if numbers else (self._in_context,):
            if (found := spell(answers)) is not None:
                return found
        if numbers:
            spelled = [self._letters(len(answers), separator) for separator in (*self._separators, None)]
            if found_letters := [letters for letters in spelled if letters is not None]:
                return min(found_letters, key=lambda found: found[0])[1]
        remedy = (
            "; nor are there enough letters and pairs of letters that are single tokens. Use fewer values"
            if numbers
            else ". Use answers that start differently, or end the template with another character"
        )
        raise AnswerTokenError(
            f"the tokenizer cannot tell the answers {_short(answers)} apart after {self._context[-20:]!r}; first "
            f"tokens are {' and '.join(self._seen)}{remedy}"
        )

    def _in_context(self, answers: Sequence[str]) -> Answers | None:
        for separator in self._separators:
            tokens = [self._behind(separator + answer) for answer in answers]
            if (found := self._distinct(tokens, [separator + answer for answer in answers])) is not None:
                return found
        return None

    def _alone(self, answers: Sequence[str]) -> Answers | None:
        return self._distinct([self._text.following(answer) for answer in answers], answers)

    def _letters(self, count: int, separator: str | None) -> tuple[int, Answers] | None:
        """The first ``count`` letters that are single tokens, and the number of letters tried to find them."""
        ids: dict[int, str] = {}
        for tried, letters in enumerate(_letters(), 1):
            tokens = self._text.following(letters) if separator is None else self._behind(separator + letters)
            if len(tokens) == 1 and tokens[0] not in self._never and tokens[0] not in ids:
                ids[tokens[0]] = (separator or "") + letters
            if len(ids) == count:
                return tried, Answers(list(ids), tuple(ids.values()))
        return None

    def _behind(self, text: str) -> Tokens:
        """The tokens of ``text`` after the template; none if the tokenizer merges it with the template's end."""
        whole = self._text.following(self._context + text)
        size = len(self._head)
        return whole[size:] if whole[:size] == self._head else ()

    def _distinct(self, tokens: Sequence[Tokens], texts: Sequence[str]) -> Answers | None:
        ids = [part[0] for part in tokens if part and part[0] not in self._never]
        if len(set(ids)) == len(texts):
            return Answers(ids, tuple(texts))
        named = self._tokenizer.convert_ids_to_tokens
        spelled = [repr(named(part[0])) if part else "merged with the text" for part in tokens[:5]]
        shown = ", ".join([*spelled, "..."] if len(tokens) > 5 else spelled)
        self._seen.append(f"{texts[0]!r} ...: {shown}")
        return None


def _letters() -> Iterator[str]:
    yield from string.ascii_uppercase
    yield from string.ascii_lowercase
    for alphabet in (string.ascii_uppercase, string.ascii_lowercase):
        yield from map("".join, product(alphabet, repeat=2))


def _short(answers: Sequence[str]) -> str:
    shown = list(answers) if len(answers) <= 12 else [*answers[:3], "...", answers[-1]]
    return ", ".join(shown)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
