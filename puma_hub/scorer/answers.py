"""Finding the tokens of the answers by tokenising them where they will stand."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from puma_hub.errors import AnswerTokenError


def find_answer_ids(tokenizer: PreTrainedTokenizerBase, context: str, answers: Sequence[str]) -> list[int]:
    """Return, for each answer, the token that follows ``context`` when that answer is written next.

    The answer is tried with and without a leading space; the first spelling that keeps the tokens of
    ``context`` and gives every answer a first token of its own is taken.

    Raises:
        AnswerTokenError: no spelling tells the answers apart.
    """
    # Text before the last line cannot change how the end of the context is tokenised.
    context = context[-64:] or "Answer:"
    head = tokenizer(context, add_special_tokens=False)["input_ids"]
    seen: list[str] = []
    for separator in ("", " ") if context[-1].isspace() else (" ", ""):
        ids = []
        for answer in answers:
            whole = tokenizer(context + separator + answer, add_special_tokens=False)["input_ids"]
            ids.append(whole[len(head)] if whole[: len(head)] == head and len(whole) > len(head) else None)
        if None not in ids and len(set(ids)) == len(ids):
            return [int(i) for i in ids if i is not None]
        spelled = ["merged with the text" if i is None else tokenizer.convert_ids_to_tokens(i) for i in ids]
        seen.append(f"{separator + answers[0]!r} ...: {spelled}")
    raise AnswerTokenError(
        f"the tokenizer cannot tell the answers {list(answers)} apart after {context[-20:]!r}; first tokens are "
        f"{' and '.join(seen)}. Use answers that start differently, or end the template with another sign"
    )
