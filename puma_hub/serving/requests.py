"""Requests with users' prompts for serving engines, made on the server's side of the trust boundary."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from puma_hub.scorer.encoding import with_tokens
from puma_hub.scorer.slot_texts import SLOT
from puma_hub.serving.inputs import PromptInputs
from puma_hub.serving.logprobs import answer_logprobs
from puma_hub.tasks.template import USER


class PromptRequests(PromptInputs):
    """Turns users and rows into requests for vLLM and SGLang, and their answers into scores.

    Only the model's input embeddings are loaded. A request holds the whole text's input embeddings, with the user's
    prompt at its place. So it is made where prompts may be known, and never by a client: vLLM's flag
    ``--enable-prompt-embeds`` is for trusted callers only.

    Args:
        bank: a :class:`~puma_hub.PromptBank`, a :class:`~puma_hub.bank.keyed_store.KeyedStore`, or the folder or
            repository of one.
        model: folder or Hub id of the LLM that the engine runs, or a :class:`~puma_hub.PersonalizedLM` with it.
        template: a template, the name of a preset, or a text with ``<user>``; by default the bank's, or the task's.
        task: by default the bank's.
        head: the rating head; by default the bank's.
        dtype: of the embeddings; by default the one the model's config names. Give the engine's.
        truncate_items: shorten the end of an item's text if its row does not fit the model.

    Raises:
        MismatchError: the bank belongs to another LLM, template or task, or the head to another task.
        UnsupportedModelError: the model needs more than input embeddings.
        ConfigurationError, StorageError, CheckpointError, HubError: something cannot be used or loaded.
    """

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of vLLM's ``SamplingParams`` for rows: one token, and the answers' log-probabilities."""
        return {"max_tokens": 1, "temperature": 0.0, "logprob_token_ids": self.answer_ids}

    def vllm(self, user_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt for vLLM's ``LLM.generate``: ``prompt_embeds (tokens, d)``.

        Raises:
            UnknownUserError, InteractionsError, TemplateError, MismatchError: see :meth:`segments`, :meth:`embeds`.
        """
        return {"prompt_embeds": self.embeds(user_id, self.segments(row))}

    def vllm_mixed(self, user_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt for vLLM's ``LLM.generate`` of token ids, with embeddings where the soft prompt is.

        ``prompt_token_ids`` has a filler at the soft prompt's places. ``prompt_embeds (tokens, d)`` is zero elsewhere.
        vLLM's prefix cache is keyed by both but not by ``prompt_is_token_ids``, so fillers and zeros are always the
        same: then equal keys are equal prompts.

        Raises:
            As :meth:`vllm`.
        """
        segments, prompt = self.segments(row), self.prompt(user_id)
        ids = with_tokens(segments, {USER: [self._filler] * len(prompt)})
        start = len(segments[0])  # type: ignore[arg-type]
        embeds = torch.zeros(len(ids), self.reader.inputs.hidden_size, dtype=self.reader.model.dtype)
        embeds[start : start + len(prompt)] = prompt.to(embeds.dtype)
        is_text = [not start <= place < start + len(prompt) for place in range(len(ids))]
        return {"prompt_token_ids": ids, "prompt_embeds": embeds, "prompt_is_token_ids": is_text}

    def vllm_http(self, user_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request to ``/v1/completions`` of ``vllm serve MODEL --enable-prompt-embeds``.

        ``model`` is the LLM's name here; set it to the server's if that is another. With more than 20 answers the
        server needs ``--max-logprobs``.

        Raises:
            As :meth:`vllm`.
        """
        return self._http_body(
            self.embeds(user_id, self.segments(row)),
            **self.sampling,
            logprobs=len(self.answer_ids),
            return_tokens_as_token_ids=True,
        )

    def vllm_http_text(self, user_id: str, text: str | Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The body of a request to ``/v1/completions`` that continues a text or a chat, see :meth:`segments_of_text`.

        A chat is rendered here, as the other ways of this package do, not by the server.

        Args:
            options: of the request, such as ``max_tokens``.

        Raises:
            UnknownUserError: the bank has no such user.
            TemplateError, MismatchError: see :meth:`segments_of_text`.
        """
        return self._http_body(self.embeds(user_id, self.segments_of_text(text)), **options)

    def vllm_chat(self, user_id: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The body of a request to ``/v1/chat/completions``, whose chat template vLLM applies.

        The prompt is a content part in place of ``<user>``, or before the first message's content. vLLM 0.32 puts line
        breaks between parts, where a chat template takes contents as strings; :meth:`vllm_http_text` adds nothing.

        Args:
            messages: ``{"role": ..., "content": text}`` each.
            options: of the request, such as ``max_tokens``.

        Raises:
            UnknownUserError: the bank has no such user.
            TemplateError: a content is no text, or there are several ``<user>``.
        """
        self.texts.of_chat(messages)  # refuses what cannot be rendered
        part = {"type": "prompt_embeds", "data": _encoded(self.prompt(user_id).to(self.reader.model.dtype))}
        found = [dict(message) for message in messages]
        holding = next((message for message in found if SLOT in message["content"]), found[0])
        before, _, after = holding["content"].rpartition(SLOT)
        texts = ({"type": "text", "text": text} if text else None for text in (before, after))
        first, last = texts
        holding["content"] = [one for one in (first, part, last) if one is not None]
        return {"model": self.reader.spec.model_id, "messages": found, **options}

    def _http_body(self, embeds: torch.Tensor, **options: Any) -> dict[str, Any]:
        return {"model": self.reader.spec.model_id, "prompt_embeds": _encoded(embeds), **options}

    def sglang(self, user_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request to SGLang's ``/generate``, with ``input_embeds`` as lists of numbers.

        SGLang switches its radix cache off for these (``--disable-radix-cache`` is needed).

        Raises:
            As :meth:`vllm`.
        """
        return {
            "input_embeds": self.embeds(user_id, self.segments(row)).float().tolist(),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            "token_ids_logprob": self.answer_ids,
        }

    def sglang_score(self, user_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request to SGLang's ``/v1/score``: token ids, with the prompt in place of a filler token.

        The filler is a token that the row does not have. The text goes on in the one item, so that it is not empty.

        Raises:
            As :meth:`vllm`.
        """
        segments, prompt = self.segments(row), self.prompt(user_id)
        used = set(with_tokens(segments, {USER: []}))
        filler = next(token for token in range(self.reader.inputs.rows) if token not in used)
        ids = with_tokens(segments, {USER: [filler] * len(prompt)})
        places = [place for place, token in enumerate(ids) if token == filler]
        cut = places[0] if places[-1] == len(ids) - 1 else places[-1] + 1
        values = prompt.float().tolist()
        in_query = cut > places[0]
        return {
            "model": self.reader.spec.model_id,
            "query": ids[:cut],
            "items": [ids[cut:]],
            "label_token_ids": self.answer_ids,
            "apply_softmax": True,
            "embed_override_token_id": filler,
            "query_embed_overrides": values if in_query else None,
            "item_embed_overrides": None if in_query else [values],
        }

    @property
    def _filler(self) -> int:
        """A token that stands where a soft prompt is; the engine does not look at it."""
        return int(self.reader.model.config.get_text_config().pad_token_id or 0)

    # Answers

    def scores(self, logprobs: Any, row: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The prediction for a row by the answers' log-probabilities, as ``pipeline("personalized-scoring")`` gives it.

        Args:
            logprobs: an engine's answer, or its part; see :func:`~puma_hub.serving.logprobs.answer_logprobs`.
            row: needed if the task adds a column to its predictions.

        Returns:
            ``{"score": float, "distribution": {answer: probability}}``; probabilities add up to 1 over the answers.

        Raises:
            ServingError: log-probabilities are missing or not finite.
            InteractionsError: the row lacks the column that the task adds.
        """
        logits = torch.tensor([answer_logprobs(logprobs, self.answer_ids)], dtype=torch.float32)
        with torch.no_grad():
            score = float(self.reader.task.predict(logits, self.head)) + self.reader.task.offset_of(row)
        return {"score": score, "distribution": dict(zip(self.reader.task.answers, logits[0].softmax(-1).tolist()))}


def _encoded(tensor: torch.Tensor) -> str:
    """A tensor as vLLM's server reads it: base64 of what ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(tensor.contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
