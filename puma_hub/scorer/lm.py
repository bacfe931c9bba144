"""The scorer: a frozen language model that turns soft prompts and rows into answer logits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import BankError, ConfigurationError, MismatchError
from puma_hub.identity import ModelSpec
from puma_hub.scorer.answer_head import with_answer_head
from puma_hub.scorer.answers import find_answer_ids
from puma_hub.scorer.check import LoadingCheck
from puma_hub.scorer.encoding import EncodedRows, PrefixGroup, RowEncoder
from puma_hub.scorer.forward import Forward
from puma_hub.scorer.models import cache_argument, load_causal_lm, max_positions, plain_model, text_model, turns
from puma_hub.scorer.prefix_cache import POLICIES, PrefixCache, PrefixCacheReport
from puma_hub.scorer.shared import sharing_weights
from puma_hub.scorer.tasks import RatingTask, Task
from puma_hub.scorer.template import PromptTemplate
from puma_hub.scorer.text import TextGenerator

_START_WORD = " user"
_CHECKED = ("a", "a somewhat longer title", "a title that is longer than the others, so that padding is needed")


class PersonalizedLM:
    """A frozen LLM with a template and a task.

    Args:
        model: a decoder-only model that accepts ``inputs_embeds``, ``position_ids`` and a key/value cache
            (``past_key_values``, which transformers 5.24 and later call ``cache``).
        tokenizer: its tokenizer.
        template: a :class:`PromptTemplate`, the name of a preset, or a text with slots.
        task: what is asked, see :mod:`puma_hub.scorer.tasks`.
        prefix_cache: ``auto``, ``full``, ``lru``, ``recompute`` or ``off``.
        cache_budget: bytes the prefix cache may take; a third of the free memory by default.

    Raises:
        UnsupportedModelError: the model cannot be scored exactly, with the reason.
        AnswerTokenError: the tokenizer cannot tell the task's answers apart.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: PromptTemplate | str = "rating",
        task: Task | None = None,
        model_id: str | None = None,
        revision: str | None = None,
        prefix_cache: str = "auto",
        cache_budget: int | None = None,
    ) -> None:
        self.template = PromptTemplate.of(template)
        self.task: Task = task if task is not None else RatingTask()
        self.tokenizer = tokenizer
        self.model = plain_model(model)
        self._model_id, self._revision = model_id, revision
        self._encoder = RowEncoder(tokenizer, self.template, max_positions(self.model))
        context = self.template.render({"item_text": "a", "history": ["a"]})[1]
        self.answer_ids = find_answer_ids(tokenizer, context, self.task.answers)
        self._lock = threading.RLock()
        if prefix_cache not in POLICIES:
            raise ConfigurationError(f"unknown prefix_cache {prefix_cache!r}; choose one of {', '.join(POLICIES)}")
        self._own = text_model(sharing_weights(self.model))
        self._turns = turns(self._own)
        self._through = Forward(
            with_answer_head(self._own, self.answer_ids), self.answer_ids, cache_argument(self._own)
        )
        with self._turns:
            rows = self._encoder.encode([{"item_text": text} for text in _CHECKED])
            cached = LoadingCheck(self._own, rows, self.answer_ids).choose(self._through, prefix_cache)
            size = self._through.prefix_states(PrefixGroup([(self.answer_ids[0],)])).nbytes if cached else 0
        self._policy = prefix_cache if cached else "off"
        self._cache = PrefixCache(self._through.prefix_states, size, self._policy, cache_budget)

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_dir: str,
        *,
        template: PromptTemplate | str = "rating",
        task: Task | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        prefix_cache: str = "auto",
        cache_budget: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        model_id: str | None = None,
    ) -> PersonalizedLM:
        """Load a causal LM and its tokenizer from a folder or the Hub (safetensors only).

        ``model_id`` is the name its banks and adapters carry; what it was loaded by, by default.

        Raises:
            StorageError: the folder or repository cannot be read as a causal LM.
        """
        if device is None:  # each process of torchrun or accelerate its own
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        model, tokenizer = load_causal_lm(model_id_or_dir, dtype=dtype, revision=revision, token=token)
        return cls(
            model.to(torch.device(device)),  # type: ignore[arg-type]
            tokenizer,
            template=template,
            task=task,
            model_id=model_id or str(model_id_or_dir),
            revision=revision,
            prefix_cache=prefix_cache,
            cache_budget=cache_budget,
        )

    # What it is

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's identity; hashing the embeddings takes about a second once."""
        return ModelSpec.from_model(self.model, self._model_id, self._revision)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def hidden_size(self) -> int:
        embeddings: Any = self.model.get_input_embeddings()
        return int(embeddings.weight.shape[1])

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def input_embeddings(self) -> torch.Tensor:
        """All input embeddings ``(vocabulary, d)`` as the layers receive them, float32 on the CPU."""
        embed: Any = self.model.get_input_embeddings()
        parts = torch.arange(embed.weight.shape[0], device=self.device).split(16_384)
        with torch.no_grad():
            return torch.cat([embed(ids).float().cpu() for ids in parts])

    @cached_property
    def embedding_rms(self) -> float:
        """Root mean square of one coordinate of the input embeddings, as the layers receive them."""
        embed = self.model.get_input_embeddings()
        rows = embed.weight.shape[0]
        ids = torch.arange(0, rows, max(1, rows // 4096), device=self.device)
        return float(embed(ids).float().square().mean().sqrt())

    def word_prompt(self, prompt_length: int) -> torch.Tensor:
        """Input embeddings ``(l, d)`` of the word "user", float32: where a prompt that all users share starts.

        From there the LLM reads a sentence it can make sense of; the word's tokens are repeated to the length.
        """
        ids = self.tokenizer(_START_WORD, add_special_tokens=False)["input_ids"]
        repeated = torch.tensor([ids[i % len(ids)] for i in range(prompt_length)], device=self.device)
        with torch.no_grad():
            return self.model.get_input_embeddings()(repeated).float()

    @property
    def cache_report(self) -> PrefixCacheReport:
        return self._cache.report

    # Scoring

    def encode(self, rows: Iterable[Mapping[str, Any]], prompt_length: int = 1) -> EncodedRows:
        """Tokenise rows once, for many calls of :meth:`logits`, and choose the cache policy for them."""
        encoded = self._encoder.encode(rows, prompt_length)
        if self._policy != "off":
            self._cache.plan(encoded, self.device)
        return encoded

    def fill_cache(self, rows: EncodedRows, progress: Any = None) -> None:
        """Compute the prefix caches of ``rows`` ahead of use where the policy keeps them all."""
        if self._policy != "off":
            self._cache.fill(rows, progress)

    def logits(self, prompts: torch.Tensor, rows: EncodedRows | Iterable[Mapping[str, Any]]) -> torch.Tensor:
        """Answer logits, float32 ``(B, answers)``, differentiable in ``prompts``.

        Args:
            prompts: float tensor ``(B, l, d)``, one soft prompt a row.
            rows: ``B`` rows of interactions, plain or from :meth:`encode`.

        Raises:
            MismatchError: the prompts have another hidden size.
            BankError: the number of prompts differs from the number of rows.
        """
        if prompts.ndim != 3 or prompts.shape[-1] != self.hidden_size:
            raise MismatchError(
                f"prompts must be (rows, length, {self.hidden_size}) for this model, got {tuple(prompts.shape)}; "
                "migrate prompts of another model first"
            )
        encoded = rows if isinstance(rows, EncodedRows) else self.encode(rows, prompts.shape[1])
        if len(encoded) != len(prompts) or not len(encoded):
            raise BankError(
                f"{len(prompts)} prompts for {len(encoded)} rows; give one prompt for each of one or more rows"
            )
        with self._turns:
            if self._policy == "off" or not any(encoded.prefixes):
                return self._through.whole(prompts, encoded)
            return self._through.from_prefix(prompts, encoded, self._cache)

    # Text

    @overload
    def generate(self, text: str, prompt: torch.Tensor, **generation_kwargs: Any) -> str: ...
    @overload
    def generate(
        self, text: Sequence[str], prompt: torch.Tensor | Sequence[torch.Tensor], **generation_kwargs: Any
    ) -> list[str]: ...
    def generate(
        self, text: str | Sequence[str], prompt: torch.Tensor | Sequence[torch.Tensor], **generation_kwargs: Any
    ) -> str | list[str]:
        """Continue a text, or a batch of texts, in which ``<user>`` stands for a soft prompt.

        Args:
            text: one text, or several.
            prompt: ``(l, d)`` for one text; one such prompt for each of several.
            generation_kwargs: as in ``model.generate``.

        Returns:
            What is new: a string (of several sequences the first), or for several texts a list, in which the
            sequences of a text follow one another.

        Raises:
            TemplateError: a text does not hold ``<user>`` exactly once, or does not fit the model's context.
            MismatchError: a prompt has another shape.
            BankError: the number of prompts differs from the number of texts.
        """
        generator = TextGenerator(self._own, self.tokenizer)
        if isinstance(text, str):
            ids = generator.generate([generator.split(text)], [torch.as_tensor(prompt)], **generation_kwargs)
            return generator.decode(ids[0, 0])
        if not len(text):
            return []
        ids = generator.generate([generator.split(part) for part in text], list(prompt), **generation_kwargs)
        return [generator.decode(sequence) for sequence in ids.flatten(0, 1)]
