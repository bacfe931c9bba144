"""The README of an exported prompt: how plain PEFT loads it, and how the text around it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase

from puma_hub.bank.peft_files import TRAINABLE_TOKENS, PeftExport
from puma_hub.hub.card_parts import spec_row
from puma_hub.hub.markup import block, code, literal
from puma_hub.hub.naming import LIBRARY, is_hub_id
from puma_hub.hub.templates import filled
from puma_hub.scorer.tokens import Tokens

_TEMPLATE = "peft_card.md"
_BEGINNINGS = ("", "\n", ":", ".", "a")


def export_card(
    export: PeftExport, texts: Sequence[str], tokens: Sequence[Tokens], tokenizer: PreTrainedTokenizerBase
) -> ModelCard:
    """The card of a prompt. It names no user.

    Args:
        texts: the example's texts before and behind the prompt.
        tokens: the tokens of these texts, the first with the leading ones.
    """
    before, after = tokens
    begins = _beginning(tokenizer, texts[0], before[len(export.leading_ids) :] if before else ())
    goes_on = _beginning(tokenizer, texts[1], after)
    published = is_hub_id(export.model.model_id) and "@" not in export.model.model_id
    return filled(
        ModelCard,
        _TEMPLATE,
        ModelCardData(
            library_name="peft",
            base_model=export.model.model_id if published else None,
            tags=[LIBRARY, "soft-prompt"],
        ),
        model=spec_row(export.model),
        published=published,
        at_tokens=export.peft_type == TRAINABLE_TOKENS,
        peft_type=export.peft_type,
        prompt_length=export.prompt_length,
        slot_ids=list(export.slot_ids),
        slot_tokens=[code(name) for name in export.slot_tokens],
        leading_ids=list(export.leading_ids) if before else [],
        template=block(export.template),
        task=code(export.task.described(export.answer_texts)) if export.task else "not recorded",
        answer_ids=list(export.answer_ids),
        before=literal(texts[0]),
        after=literal(texts[1]),
        begins=None if begins is None else literal(begins),
        goes_on=None if goes_on is None else literal(goes_on),
        example=block(export.example_text),
        example_ids=list(export.example_ids),
    )


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> str | None:
    """What to put before ``text`` so that the tokenizer alone gives ``ids`` behind it; None if nothing does it."""
    plain: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    return next((sign for sign in _BEGINNINGS if plain(sign + text)[len(plain(sign)) :] == list(ids)), None)
