"""Texts and chats with one placeholder ``<user>``, as segments: tokens, the soft slot, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError as ChatTemplateError
from transformers import PreTrainedTokenizerBase

from puma_hub.errors import TemplateError
from puma_hub.scorer.encoding import Segments
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.tokens import TextTokenizer, Tokens
from puma_hub.tasks.template import USER, Part, SoftSlot

SLOT = f"<{USER}>"
_CHAT_SLOT = (
    "\ue000soft-prompt\ue001"  # private-use characters: they do not occur in text, and chat templates keep them
)


def continues_last(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is the assistant's, and is therefore continued."""
    return bool(messages[-1]["role"] == "assistant")


class SlotTexts:
    """Splits texts and chats at the place of their soft prompt.

    Args:
        tokenizer: the model's tokenizer, with its chat template.
        inputs: of the model; tokens without an embedding are refused.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, inputs: ModelInputs) -> None:
        self._tokenizer: Any = tokenizer
        self._inputs = inputs
        self._tokens = TextTokenizer(tokenizer)

    def of(self, text: str) -> Segments:
        """The segments of a text with one placeholder ``<user>``. Names of control tokens are ordinary text.

        Raises:
            TemplateError: the text does not have the placeholder exactly once, or has a control token that the
                tokenizer cannot write as text.
            MismatchError: the model has no embedding of a token.
        """
        if text.count(SLOT) != 1:
            raise TemplateError(f"the text must hold {SLOT} exactly once, found {text.count(SLOT)} times")
        before, after = ((Part(part, True),) for part in text.split(SLOT))
        return self._known(
            self._tokens.leading + self._tokens.of([before], False)[before],
            self._tokens.of([after], True)[after],
        )

    def of_chat(self, messages: Sequence[Mapping[str, Any]]) -> Segments:
        """The segments of a chat, rendered with the tokenizer's chat template.

        Args:
            messages: ``{"role": ..., "content": ...}`` each. The placeholder stands in one of them at most; without it
                the slot is before the first message's content. A final assistant message is continued.

        Raises:
            TemplateError: a content is not a string, there are several placeholders, the chat template cannot render
                the messages, or it does not write the placeholder exactly once.
            MismatchError: the model has no embedding of a token.
        """
        contents: list[Any] = [message.get("content") for message in messages]
        if not all(isinstance(content, str) for content in contents):
            raise TemplateError("every message needs a content that is a string; soft prompts go only into text")
        slots = sum(content.count(SLOT) for content in contents)
        if slots > 1:
            raise TemplateError(f"the messages must hold {SLOT} at most once, found {slots} times")
        guarded, cut = self._tokens.guarded(messages)
        marked = [{**message, "content": message["content"].replace(SLOT, _CHAT_SLOT)} for message in guarded]
        if not slots:
            marked[0]["content"] = _CHAT_SLOT + marked[0]["content"]
        goes_on = continues_last(messages)
        try:
            text = self._tokenizer.apply_chat_template(
                marked, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        except (ChatTemplateError, ValueError, TypeError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TemplateError(
                f"the tokenizer's chat template cannot render these messages: {reason}; give messages it knows, or a "
                "text"
            ) from error
        if text.count(_CHAT_SLOT) != 1:
            raise TemplateError(
                f"the chat template writes the message with {SLOT} {text.count(_CHAT_SLOT)} times; put {SLOT} into "
                "another message"
            )
        before, after = text.split(_CHAT_SLOT)
        return self._known(self._tokens.of_guarded(before, cut, False), self._tokens.of_guarded(after, cut, True))

    def _known(self, before: Tokens, after: Tokens) -> Segments:
        self._inputs.require_known([before, after])
        return before, SoftSlot(USER), after
