"""``pipeline("personalized-text-generation")``: continues texts and chats with users' prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.errors import InteractionsError
from puma_hub.pipelines.personal import PersonalizedPipeline, checked_unknown_users
from puma_hub.scorer.encoding import text_length
from puma_hub.scorer.slot_texts import SLOT, continues_last
from puma_hub.scorer.text import TextGenerator

_USUAL_NEW_TOKENS = 256  # as in transformers' text-generation


class PersonalizedTextGenerationPipeline(PersonalizedPipeline):
    """Continues texts and chats, with a user's soft prompt in place of ``<user>``.

    An input is a text, a chat, or a dict with ``text`` or ``messages`` and its own ``user_id`` or ``prompt``
    (``(l, d)``). A chat is a list of messages with ``role`` and ``content``. It is rendered with the tokenizer's chat
    template. A final assistant message is continued. Without ``<user>``, the prompt is put before the text or before
    the first message's content. A result is a list of ``{"generated_text": ...}``, one for each of
    ``num_return_sequences``, as in transformers' ``text-generation``.

    Args:
        model, bank, adapter: see :class:`PersonalizedPipeline`.
        user_id, prompt: the user or the prompt of inputs that have none of their own.
        unknown_users: ``error``, or ``mean`` to use the bank's mean prompt for users who are not in the bank. Results
            then say in ``cold_start`` whether it was used.
        return_full_text: ``generated_text`` begins with the given text or messages (the default).
        generation_kwargs: passed to ``model.generate``. 256 new tokens unless these or the model set another number.

    Raises:
        MismatchError: bank, adapter and LLM do not belong together.
        UnsupportedModelError: the model is not decoder-only, or does not accept input embeddings.
        ConfigurationError: an argument cannot be used.
        StorageError, CheckpointError, HubError: something cannot be loaded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generator = self.lm.generator if self.lm is not None else TextGenerator(self.model, self.tokenizer)

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, (str, Mapping)) or _is_chat(inputs)

    def _sanitize_parameters(
        self,
        user_id: str | None = None,
        prompt: Any = None,
        unknown_users: str | None = None,
        return_full_text: bool | None = None,
        **generation_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before = {"user_id": user_id, "prompt": prompt}
        if unknown_users is not None:
            before["unknown_users"] = checked_unknown_users(unknown_users)
        after = {} if return_full_text is None else {"return_full_text": return_full_text}
        return {key: value for key, value in before.items() if value is not None}, generation_kwargs, after

    def preprocess(
        self, inputs: Any, user_id: str | None = None, prompt: Any = None, unknown_users: str = "error"
    ) -> dict[str, Any]:
        """The token ids before and after the prompt, the prompt ``(l, d)``, and the given input."""
        item: Any = inputs if isinstance(inputs, Mapping) else {"messages" if _is_chat(inputs) else "text": inputs}
        if item.get("user_id") is None and item.get("prompt") is None:
            item = {**item, "user_id": user_id, "prompt": prompt}
        text, messages = item.get("text"), item.get("messages")
        if messages is None and isinstance(text, str):
            given: Any = text
            parts = self.generator.texts.of(text if SLOT in text else SLOT + text)
        elif text is None and _is_chat(messages):
            given = [dict(message) for message in messages]
            parts = self.generator.texts.of_chat(given)
        else:
            raise InteractionsError(
                "an input needs text, a string, or messages, a list of {'role': ..., 'content': ...}; found "
                f"{', '.join(map(str, item))} with {type(text if messages is None else messages).__name__}"
            )
        found, is_mean = self.prompts.find(item, unknown_users)
        allowed = {"cold_start": is_mean} if unknown_users == "mean" else {}
        return {"given": given, "parts": parts, "prompt": found, **allowed}

    def admit(self, item: dict[str, Any], **generation_kwargs: Any) -> None:
        options = {**self._usual_options(generation_kwargs), **generation_kwargs}
        self.generator.require_room(text_length(item["parts"]) + len(item["prompt"]), options)

    def _forward(self, inputs: list[dict[str, Any]], **generation_kwargs: Any) -> list[dict[str, Any]]:
        """Add new token ids ``(sequences, tokens)`` to each input from :meth:`preprocess`."""
        options = {**self._usual_options(generation_kwargs), **generation_kwargs}
        ids = self.generator.generate(
            [item["parts"] for item in inputs], [item["prompt"] for item in inputs], **options
        )
        return [{**item, "ids": sequences} for item, sequences in zip(inputs, ids)]

    def _usual_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults for options that neither caller nor model set; none if the caller gives a ``generation_config``."""
        if given.get("generation_config") is not None:
            return {}
        said = {*self.model.generation_config.to_diff_dict(), *given}
        padding = next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), None)
        usual = {} if said & {"max_new_tokens", "max_length"} else {"max_new_tokens": _USUAL_NEW_TOKENS}
        return usual if "pad_token_id" in said or padding is None else {**usual, "pad_token_id": padding}

    def postprocess(self, output: dict[str, Any], return_full_text: bool = True) -> list[dict[str, Any]]:
        told = {key: output[key] for key in ("cold_start",) if key in output}
        texts = [self.generator.decode(sequence) for sequence in output["ids"]]
        given = output["given"]
        if return_full_text:
            return [{"generated_text": _joined(given, text), **told} for text in texts]
        return [{"generated_text": text, **told} for text in texts]


def _is_chat(inputs: Any) -> bool:
    if not isinstance(inputs, (list, tuple)) or not inputs:
        return False
    return all(isinstance(message, Mapping) and "role" in message for message in inputs)


def _joined(given: Any, text: str) -> Any:
    if isinstance(given, str):
        return given + text
    if continues_last(given):
        return [*given[:-1], {**given[-1], "content": given[-1]["content"] + text}]
    return [*given, {"role": "assistant", "content": text}]
