"""The scorer: a frozen language model that turns soft prompts and rows into answer logits."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

import datasets
import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.data.rows import records
from puma_hub.errors import BankError, ConfigurationError, MismatchError
from puma_hub.identity import ModelSpec
from puma_hub.scorer.answer_head import with_answer_head
from puma_hub.scorer.answer_tokens import find_answers
from puma_hub.scorer.caches import Packing, PrefixCacheReport, require_options
from puma_hub.scorer.check import LoadingCheck
from puma_hub.scorer.encoding import EncodedRows, FilledSlot, RowEncoder
from puma_hub.scorer.forward import Forward
from puma_hub.scorer.inputs import Batch, Prompts
from puma_hub.scorer.loading import load_placed, move
from puma_hub.scorer.models import cache_argument, max_positions, plain_model, text_model, turns
from puma_hub.scorer.shared import sharing_weights
from puma_hub.scorer.text import TextGenerator
from puma_hub.tasks import Task, default_task
from puma_hub.tasks.template import ITEM, USER, PromptTemplate

_START_WORDS = {USER: " user", ITEM: " item"}
_CHECKED = ("a", "a somewhat longer title", "a title that is longer than the others, so that padding is needed")


class PersonalizedLM:
    """A frozen LLM with a template and a task.

    Args:
        model: a decoder-only model that accepts ``inputs_embeds``; see docs/models.md. It is not changed: the scorer
            has its own modules with the same weights. So several scorers and threads can share a model.
        tokenizer: the model's tokenizer.
        template: a :class:`PromptTemplate`, the name of a preset, or a text with the placeholder ``<user>``.
        task: the task, see :mod:`puma_hub.tasks.base`.
        prefix_cache: ``auto``, ``full``, ``lru``, ``recompute`` or ``off``.
        cache_budget: the largest size of the prefix cache in bytes; a third of the free memory by default.
        cache_dtype: ``bfloat16`` or ``int8`` keep more prefixes in it; by default they are in the model's dtype. Scores
            are rounded by it; ``cache_report.error`` tells how far the states are.
        truncate_items: shorten the end of an item's text if its row does not fit the model. By default such rows are
            an error.

    Raises:
        UnsupportedModelError: the model cannot be scored exactly, see the message. At loading, its scores are compared
            with a plain forward pass over token ids.
        AnswerTokenError: the tokenizer cannot tell the task's answers apart.
        ConfigurationError: the template is a preset for other values than the task's, or an argument cannot be used.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: PromptTemplate | str | None = None,
        task: Task | None = None,
        model_id: str | None = None,
        revision: str | None = None,
        prefix_cache: str = "auto",
        cache_budget: int | None = None,
        cache_dtype: str | None = None,
        truncate_items: bool = False,
    ) -> None:
        require_options(prefix_cache, cache_budget)
        self._requested = (prefix_cache, cache_budget, Packing(cache_dtype))
        self.task: Task = task if task is not None else default_task()
        self.template = PromptTemplate.of(template if template is not None else self.task.template)
        self.tokenizer = tokenizer
        self.model = plain_model(model)
        self._model_id, self._revision = model_id, revision
        self._encoder = RowEncoder(tokenizer, self.template, max_positions(self.model), truncate_items)
        self._answers = find_answers(tokenizer, self._encoder.text, self.template, self.task.answers)
        self.answer_ids = self._answers.ids
        self._lock = threading.RLock()
        self._prepare()

    def _prepare(self) -> None:
        """Create modules with the model's weights, choose an exact way of scoring, and start with an empty cache."""
        policy, budget, packing = self._requested
        self._own = text_model(sharing_weights(self.model))
        self._turns = turns(self._own)
        self._through = Forward(
            with_answer_head(self._own, self.answer_ids), self.answer_ids, cache_argument(self._own)
        )
        self._through.inputs.require_known([self.answer_ids])
        with self._turns:
            rows = self._encoder.encode([{"item_text": text, "history": [text]} for text in _CHECKED])
            LoadingCheck(self._own, rows, self.answer_ids).choose(self._through, policy)
            self._cache = self._through.new_cache(policy, budget, packing)

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_dir: str,
        *,
        template: PromptTemplate | str | None = None,
        task: Task | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        prefix_cache: str = "auto",
        cache_budget: int | None = None,
        cache_dtype: str | None = None,
        truncate_items: bool = False,
        revision: str | None = None,
        model_id: str | None = None,
        **loading: Any,
    ) -> PersonalizedLM:
        """Load a causal LM and its tokenizer from a folder or the Hub (safetensors only; no code is run).

        Args:
            device: the model's device; the process's GPU by default, or the CPU if there is none.
            model_id: the model's name in banks and adapters; ``model_id_or_dir`` by default.
            loading: ``token``, ``subfolder``, ``cache_dir``, ``local_files_only``, ``attn_implementation``,
                ``quantization_config``, ``device_map``, ``max_memory`` and ``offload_folder``, passed to
                ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            StorageError: the folder or repository cannot be read as a causal LM.
            UnsupportedModelError: the model needs code from its repository, or cannot be scored exactly.
            ConfigurationError: an option is unknown, both ``device`` and ``device_map`` are given, or the device does
                not exist.
            MissingDependencyError: a package that is needed to read the model is not installed.
        """
        model, tokenizer = load_placed(model_id_or_dir, device, dtype=dtype, revision=revision, **loading)
        return cls(
            model,
            tokenizer,
            template=template,
            task=task,
            model_id=model_id or str(model_id_or_dir),
            revision=revision,
            prefix_cache=prefix_cache,
            cache_budget=cache_budget,
            cache_dtype=cache_dtype,
            truncate_items=truncate_items,
        )

    # Properties of the model

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's identity. The first call takes about a second to hash the embeddings."""
        return ModelSpec.from_model(self.model, self._model_id, self._revision)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def hidden_size(self) -> int:
        return self._through.inputs.hidden_size

    @property
    def device(self) -> torch.device:
        """The device of the logits. Prompts are moved to it."""
        return self._through.inputs.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's computation. Logits are float32."""
        return self.model.dtype

    @property
    def dtypes(self) -> list[str]:
        """What scores are rounded by: the model's dtype, and that of the prefix cache if it has one of its own."""
        return [str(self.dtype), *([self.cache_report.dtype] if self.cache_report.dtype else [])]

    def to(self, *args: Any, **kwargs: Any) -> PersonalizedLM:
        """Move the model to a device or cast it to a dtype, as ``torch.nn.Module.to``. Returns the scorer itself.

        The caller's model is moved too. If anything changes, the check of loading is repeated and the prefix cache is
        emptied. Prompts may be on any device. The heads of banks and adapters are not moved.

        Raises:
            ConfigurationError: the device does not exist, or the model cannot be moved because accelerate has placed
                it or it is quantised.
            UnsupportedModelError: the model cannot be scored exactly in this dtype.
        """
        with self._lock:
            if move(self.model, *args, **kwargs):
                for name in ("generator", "embedding_rms"):  # computed from the old weights
                    vars(self).pop(name, None)
                self._prepare()
        return self

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._turns:
            return self._through.inputs.embed(ids.to(self.device)).float()

    def input_embeddings(self) -> torch.Tensor:
        """All input embeddings ``(vocabulary, d)`` as the layers receive them, float32 on the CPU."""
        parts = torch.arange(self._through.inputs.rows).split(16_384)
        return torch.cat([self._embed(ids).cpu() for ids in parts])

    @cached_property
    def embedding_rms(self) -> float:
        """Root mean square of the coordinates of the input embeddings, as the layers receive them."""
        rows = self._through.inputs.rows
        return float(self._embed(torch.arange(0, rows, max(1, rows // 4096))).square().mean().sqrt())

    def word_prompt(self, prompt_length: int, slot: str = USER) -> torch.Tensor:
        """Input embeddings of the word "user", float32 ``(l, d)``: the start of the prompt that all users share.

        With this word the LLM reads a meaningful sentence. Its tokens are repeated up to the length. For the slot
        ``item_prompt`` the word is "item".
        """
        ids = self.tokenizer(_START_WORDS[slot], add_special_tokens=False)["input_ids"]
        return self._embed(torch.tensor([ids[i % len(ids)] for i in range(prompt_length)]))

    @property
    def answer_texts(self) -> tuple[str, ...]:
        """The spelling of each of the task's answers, in order: the answer itself, or a letter in its place."""
        return self._answers.texts

    def require_spelling(self, texts: Sequence[str] | None) -> None:
        """Check that prompts were trained with the same answer texts. ``texts`` is None if theirs are not known.

        Raises:
            MismatchError: they were trained with other texts.
        """
        self._answers.require_spelling(texts)

    @property
    def cache_report(self) -> PrefixCacheReport:
        return PrefixCacheReport("off") if self._cache is None else self._cache.report

    # Scoring

    def encode(
        self, rows: Iterable[Mapping[str, Any]], prompt_length: int = 1, filled: FilledSlot | None = None
    ) -> EncodedRows:
        """Tokenise rows once for many calls of :meth:`logits`, and choose the cache policy for them.

        Args:
            rows: interactions. Only the columns in the template are read.
            prompt_length: the number of positions of a row's soft prompt.
            filled: for a template with two soft slots, the prompts in one of them; the other is open for the prompts
                of :meth:`logits`. By default the slot of items is filled with the word "item" in every row.

        Raises:
            BankError: ``filled`` is for another number of rows.
            ConfigurationError: the template has no such slot, or no other one.
            TemplateError: a row with its prompt does not fit the model's context.
            MismatchError: a row has a token without an embedding: the tokenizer does not belong to the model.
        """
        with self._lock:
            plain = records(rows) if isinstance(rows, datasets.Dataset) else rows
            if filled is None and ITEM in self.template.soft_slots:
                filled = FilledSlot(ITEM, self.word_prompt(1, ITEM).cpu()[None], np.zeros(0, np.int64))
            encoded = self._encoder.encode(plain, prompt_length + (filled.prompts.shape[1] if filled else 0))
            self._through.inputs.require_known(encoded.texts())
            if self._cache is not None:
                self._cache.plan(encoded.prefixes, self.device)
        return encoded if filled is None else replace(encoded, filled=self._fitting(filled, len(encoded)))

    def _fitting(self, filled: FilledSlot, rows: int) -> FilledSlot:
        """What fills a slot of so many rows; one prompt and no numbers are for all of them."""
        if filled.slot not in self.template.soft_slots or len(self.template.soft_slots) < 2:
            raise ConfigurationError(
                f"the slot <{filled.slot}> cannot be filled in {self.template.text!r}: it has to be there beside the "
                "slot of the prompts; use the template 'rating-items', or a text with <user> and <item_prompt>"
            )
        self._require_prompts(filled.prompts)
        if len(filled.prompts) == 1 and not len(filled.of_row):
            return replace(filled, of_row=np.zeros(rows, np.int64))
        if len(filled.of_row) != rows:
            raise BankError(f"the slot <{filled.slot}> is filled for {len(filled.of_row)} rows, there are {rows}")
        return filled

    def fill_cache(self, rows: EncodedRows, progress: Any = None) -> None:
        """Compute the prefixes of ``rows`` in advance, if the cache policy keeps all of them."""
        if self._cache is not None:
            with self._turns:
                self._cache.fill(rows.prefixes, progress)

    def logits(self, prompts: torch.Tensor, rows: EncodedRows | Iterable[Mapping[str, Any]]) -> torch.Tensor:
        """Answer logits, float32 ``(B, answers)``, differentiable in ``prompts``.

        Args:
            prompts: float tensor ``(B, l, d)``, one soft prompt for each row, for the slot that is open. That is
                ``<user>``, unless it was filled when the rows were encoded.
            rows: ``B`` rows of interactions, plain or from :meth:`encode`.

        Raises:
            MismatchError: the prompts have another hidden size, or are not floats.
            BankError: the number of prompts differs from the number of rows.
        """
        self._require_prompts(prompts)
        encoded = rows if isinstance(rows, EncodedRows) else self.encode(rows, prompts.shape[1])
        if len(encoded) != len(prompts) or not len(encoded):
            raise BankError(
                f"{len(prompts)} prompts for {len(encoded)} rows; give at least one row, and one prompt for each"
            )
        if encoded.filled is None:
            return self._logits({USER: prompts}, encoded)
        (open_slot,) = (slot for slot in self.template.soft_slots if slot != encoded.filled.slot)
        return self._logits({open_slot: prompts, encoded.filled.slot: encoded.filled.rows()}, encoded)

    def _logits(self, prompts: Prompts, rows: EncodedRows) -> torch.Tensor:
        batch = Batch(rows, prompts)
        with self._turns:
            if self._cache is None or not any(rows.prefixes):
                return self._through.whole(batch)
            return self._through.from_prefix(batch, self._cache)

    def _require_prompts(self, prompts: torch.Tensor) -> None:
        size = self.hidden_size
        if not isinstance(prompts, torch.Tensor) or not prompts.is_floating_point():
            found = prompts.dtype if isinstance(prompts, torch.Tensor) else type(prompts).__name__
            raise MismatchError(
                f"prompts must be a tensor of floats, got {found}; give torch.as_tensor(prompts).float()"
            )
        if prompts.ndim != 3 or prompts.shape[-1] != size:
            remedy = "give one prompt for each row" if prompts.ndim != 3 else "migrate prompts of another model first"
            raise MismatchError(
                f"prompts must be (rows, length, {size}) for this model, got {tuple(prompts.shape)}; {remedy}"
            )

    # Text

    @cached_property
    def generator(self) -> TextGenerator:
        """The text generator. At its first use, continuations of tokens and of their embeddings are compared."""
        return TextGenerator(self._own, self.tokenizer)

    @overload
    def generate(self, text: str, prompt: torch.Tensor, **generation_kwargs: Any) -> str: ...
    @overload
    def generate(
        self, text: Sequence[str], prompt: torch.Tensor | Sequence[torch.Tensor], **generation_kwargs: Any
    ) -> list[str]: ...
    def generate(
        self, text: str | Sequence[str], prompt: torch.Tensor | Sequence[torch.Tensor], **generation_kwargs: Any
    ) -> str | list[str]:
        """Continue a text, or several texts, with a soft prompt in place of ``<user>``.

        Args:
            text: one text, or several.
            prompt: ``(l, d)`` for one text; for several texts, one such prompt for each.
            generation_kwargs: passed to ``model.generate``.

        Returns:
            The new text. For one text a string, the first if several sequences are generated. For several texts a list
            with all sequences of the first text, then of the second, and so on.

        Raises:
            TemplateError: a text does not hold ``<user>`` exactly once, or does not fit the model's context.
            MismatchError: a prompt has another shape.
            BankError: the number of prompts differs from the number of texts.
        """
        generator = self.generator
        if isinstance(text, str):
            ids = generator.generate([generator.texts.of(text)], [torch.as_tensor(prompt)], **generation_kwargs)
            return generator.decode(ids[0, 0])
        if not len(text):
            return []
        ids = generator.generate([generator.texts.of(part) for part in text], list(prompt), **generation_kwargs)
        return [generator.decode(sequence) for sequence in ids.flatten(0, 1)]
