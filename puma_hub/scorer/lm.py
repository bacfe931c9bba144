"""The scorer: a frozen language model that turns soft prompts and rows into answer logits."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import datasets
import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.data.rows import records
from puma_hub.errors import BankError, MismatchError, UnsupportedModelError
from puma_hub.identity import ModelSpec
from puma_hub.scorer import attention
from puma_hub.scorer.answers import find_answer_ids
from puma_hub.scorer.encoding import EncodedRows, PrefixGroup, RowEncoder, left_padded, right_padded
from puma_hub.scorer.models import cache_argument, load_causal_lm, max_positions
from puma_hub.scorer.prefix_cache import PrefixCache, PrefixCacheReport, stack_cache
from puma_hub.scorer.tasks import RatingTask, Task
from puma_hub.scorer.template import PromptTemplate
from puma_hub.scorer.text import TextGenerator

_START_WORD = " user"


class AnswerHead(nn.Module):
    """The rows of the output matrix that belong to the answers, in float32."""

    def __init__(self, output: nn.Module, answer_ids: list[int]) -> None:
        super().__init__()
        bias = getattr(output, "bias", None)
        self.register_buffer("weight", output.weight[answer_ids].detach().float())  # type: ignore[index]
        self.register_buffer("bias", None if bias is None else bias[answer_ids].detach().float())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden_states.float(), self.weight, self.bias)  # type: ignore[arg-type]


def with_answer_head(model: PreTrainedModel, answer_ids: list[int]) -> PreTrainedModel:
    """Return a shallow copy of ``model`` whose output layer knows the answers only.

    All weights but the answer rows are shared. What the model does to its logits afterwards (soft-capping,
    scaling) is the model's own code, so it is respected whatever it is.
    """
    output = model.get_output_embeddings()
    name = next((name for name, child in model.named_children() if child is output), None)
    if output is None or name is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no output layer of its own; use a causal LM")
    narrow = copy.copy(model)
    narrow._modules = {**model._modules, name: AnswerHead(output, answer_ids)}
    return narrow


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
        self._cache_argument = cache_argument(model)
        self.model = model.eval().requires_grad_(False)
        attention.use_grouped(model)
        self._model_id, self._revision = model_id, revision
        self._encoder = RowEncoder(tokenizer, self.template, max_positions(model))
        context = self.template.render({"item_text": "a", "history": ["a"]})[1]
        self.answer_ids = find_answer_ids(tokenizer, context, self.task.answers)
        self._scored = with_answer_head(model, self.answer_ids)
        self._apart = False  # whether attention takes the prefix apart from the new tokens
        bytes_per_token = self._probe() if prefix_cache != "off" else 0
        self._policy = prefix_cache if bytes_per_token or prefix_cache != "auto" else "off"
        self._cache = PrefixCache(self._prefix_states, bytes_per_token, self._policy, cache_budget)

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
        encoded = self._encoder.encode(records(rows) if isinstance(rows, datasets.Dataset) else rows, prompt_length)
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
        return self._forward(prompts, encoded, cached=self._policy != "off")

    def _forward(self, prompts: torch.Tensor, rows: EncodedRows, cached: bool) -> torch.Tensor:
        # Layout: left padding, prefix, prompt, suffix, right padding; positions count real tokens only.
        embed = self.model.get_input_embeddings()
        suffix_ids, suffix_mask = right_padded(rows.suffixes, self.device)
        parts = [prompts.to(self.device, self.dtype), embed(suffix_ids).to(self.dtype)]
        past: dict[str, Any] = {}
        if cached and any(rows.prefixes):
            states, lengths = self._cache.gather(rows)
            past = attention.prefix_arguments(self._cache_argument, states, self._apart)
            width = int(lengths.max())
            prefix_mask = torch.arange(width, device=self.device)[None] >= width - lengths[:, None]
            queries = 0
        else:
            prefix_ids, prefix_mask = left_padded(rows.prefixes, self.device)
            parts.insert(0, embed(prefix_ids).to(self.dtype))
            lengths, queries = prefix_mask.sum(-1), prefix_mask.shape[1]
        ones = torch.ones(prompts.shape[:2], dtype=torch.bool, device=self.device)
        mask = torch.cat([prefix_mask, ones, suffix_mask], 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, prefix_mask.shape[1] - queries :]
        output = self._scored(
            inputs_embeds=torch.cat(parts, 1),
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=bool(past),
            **past,
        )
        last = queries + prompts.shape[1] - 1 + suffix_mask.sum(-1)
        return output.logits[torch.arange(len(last), device=self.device), last].float()

    @torch.no_grad()
    def _prefix_states(self, group: PrefixGroup) -> torch.Tensor:
        # Models cannot run over no tokens at all, so such a group's cache is cut from that of one token.
        ids, mask = left_padded(group.prefixes if group.length else [(0,)], self.device)
        cache = DynamicCache()
        self._scored(
            inputs_embeds=self.model.get_input_embeddings()(ids).to(self.dtype),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: cache},
        )
        # Keys and values of padding may be anything; zeros are safe under a mask.
        return stack_cache(cache).masked_fill(~mask[None, :, None, :, None], 0.0)[..., : group.length, :]

    @torch.no_grad()
    def _probe(self) -> int:
        """Compare cached scoring with plain forwards of single rows; return the cache's bytes a token.

        Raises:
            UnsupportedModelError: the two disagree, so the model does not treat a prefix as a constant.
        """
        rows = self._encoder.encode([{"item_text": "a"}, {"item_text": "a somewhat longer title"}])
        ids = torch.tensor([[self.answer_ids[0]], [self.answer_ids[1]]], device=self.device)
        prompts = self.model.get_input_embeddings()(ids).float()
        plain = torch.cat([self._plain(prompts[i], rows.prefixes[i], rows.suffixes[i]) for i in range(2)])
        self._cache = PrefixCache(self._prefix_states, 0, "recompute")
        fault: UnsupportedModelError | None = None
        for apart in (True, False) if attention.is_grouped(self.model) else (False,):
            self._apart = apart
            try:
                fault = self._compared(self._forward(prompts, rows, cached=True), plain)
            except UnsupportedModelError:
                return 0
            except (TypeError, AttributeError, RuntimeError, IndexError, ValueError) as error:
                name = type(self.model).__name__
                fault = UnsupportedModelError(f"{name} cannot be scored from a cached prefix: {error}")
                fault.__cause__ = error
            if fault is None:
                return self._prefix_states(PrefixGroup([(self.answer_ids[0],)])).nbytes
        assert fault is not None
        raise fault

    def _compared(self, cached: torch.Tensor, plain: torch.Tensor) -> UnsupportedModelError | None:
        allowed = (1e-3 if self.dtype == torch.float32 else 1e-1) * max(1.0, float(plain.abs().max()))
        difference = float((cached - plain).abs().max())
        if difference <= allowed:
            return None
        return UnsupportedModelError(
            f"{type(self.model).__name__} gives other logits from a cached prefix than from the text (difference "
            f"{difference:.3g}, allowed {allowed:.3g}): it is not purely causal, or ignores position_ids; choose "
            "another model"
        )

    def _plain(self, prompt: torch.Tensor, prefix: tuple[int, ...], suffix: tuple[int, ...]) -> torch.Tensor:
        embed = self.model.get_input_embeddings()
        ids = [torch.tensor(part, dtype=torch.long, device=self.device) for part in (prefix, suffix)]
        embeds = torch.cat([embed(ids[0]).to(self.dtype), prompt.to(self.dtype), embed(ids[1]).to(self.dtype)])
        return self.model(inputs_embeds=embeds[None], use_cache=False).logits[:, -1, self.answer_ids].float()

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
        generator = TextGenerator(self.model, self.tokenizer)
        if isinstance(text, str):
            ids = generator.generate([generator.split(text)], [torch.as_tensor(prompt)], **generation_kwargs)
            return generator.decode(ids[0, 0])
        if not len(text):
            return []
        ids = generator.generate([generator.split(part) for part in text], list(prompt), **generation_kwargs)
        return [generator.decode(sequence) for sequence in ids.flatten(0, 1)]
