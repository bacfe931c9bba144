"""Generating text with soft prompts, in batches with one prompt for each text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import BankError, MismatchError, TemplateError, UnsupportedModelError
from puma_hub.scorer.check import difference, reason
from puma_hub.scorer.encoding import Segments
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.models import cache_argument, is_stretched, max_positions, turns
from puma_hub.scorer.padding import real_tokens
from puma_hub.scorer.slot_texts import SlotTexts
from puma_hub.tasks.template import USER


class TextGenerator:
    """Continues texts that contain a soft prompt.

    Args:
        model: a model that nobody else changes, see :func:`~puma_hub.scorer.shared.sharing_weights`.
        tokenizer: the model's tokenizer.

    Raises:
        UnsupportedModelError: the model is not decoder-only, or continues embeddings and tokens differently.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        cache_argument(model)
        self.model = model
        self.tokenizer = tokenizer
        self._longest = max_positions(model)
        self._inputs = ModelInputs(model)
        self.texts = SlotTexts(tokenizer, self._inputs)
        self._turns = turns(model)
        if self._inputs.has_layers:
            _only_first(model)
        with self._turns:
            self._pads = self._checked()

    @property
    def hidden_size(self) -> int:
        return self._inputs.hidden_size

    @property
    def joins_lengths(self) -> bool:
        """Whether texts of different lengths are continued in one batch."""
        return self._pads

    @torch.no_grad()
    def generate(self, texts: Sequence[Segments], prompts: Sequence[torch.Tensor], **options: Any) -> torch.Tensor:
        """New token ids ``(B, sequences for each text, tokens)``; ``options`` are passed to ``model.generate``.

        A text is continued as it would be alone. Texts are padded on the left and masked. If the model ignores the
        mask, only texts of the same length share a batch.

        Args:
            texts: segments of :attr:`texts`.
            prompts: soft prompts ``(l, d)``, one for each text.

        Raises:
            MismatchError: a prompt has another shape.
            BankError: the number of prompts differs from the number of texts.
            TemplateError: a text with its prompt does not fit the model's context.
        """
        if len(prompts) != len(texts):
            raise BankError(f"{len(prompts)} prompts for {len(texts)} texts; give one prompt for each text")
        rows = [self._given(text, torch.as_tensor(prompt)) for text, prompt in zip(texts, prompts)]
        lengths = [row["inputs_embeds"].shape[1] for row in rows]
        self.require_room(max(lengths), options)
        groups = [list(range(len(rows)))]
        if not self._pads:
            groups = [[i for i, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))]
        with self._turns:
            written = [self._generate(**self._together([rows[i] for i in group]), **options) for group in groups]
        found = [getattr(output, "sequences", output) for output in written]
        ids = [part.reshape(len(group), -1, part.shape[-1]) for group, part in zip(groups, found)]
        width = max(part.shape[-1] for part in ids)
        end = self._end(options)
        whole = torch.cat([nn.functional.pad(part, (0, width - part.shape[-1]), value=end) for part in ids])
        return whole[torch.tensor([i for group in groups for i in group], device=whole.device).argsort()]

    def require_room(self, width: int, options: Mapping[str, Any]) -> None:
        """Check that there is room for new tokens after a text with ``width`` positions, prompt included.

        Raises:
            TemplateError: there is not enough room.
        """
        said = options.get("generation_config") or self.model.generation_config
        new = options.get("max_new_tokens") or getattr(said, "max_new_tokens", None) or 1
        needed = width + (int(new) if is_stretched(self.model) else 1)
        if needed > self._longest:
            raise TemplateError(
                f"a text needs {needed} positions with its prompt and new tokens, the model has {self._longest}; "
                "shorten the text or ask for fewer new tokens"
            )

    def _end(self, options: Mapping[str, Any]) -> int:
        known = (options.get("pad_token_id"), self.model.generation_config.pad_token_id, self.tokenizer.pad_token_id)
        return int(next((i for i in (*known, self.tokenizer.eos_token_id) if i is not None), 0))

    def _together(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The rows' inputs as one batch, padded on the left."""
        given = {
            name: pad_sequence([row[name][0] for row in rows], batch_first=True, padding_side="left")
            for name in rows[0]
        }
        embeds = given["inputs_embeds"]
        lengths = torch.tensor([row["inputs_embeds"].shape[1] for row in rows], device=embeds.device)
        return {**given, "attention_mask": real_tokens(lengths, embeds.shape[1], "left").long()}

    def _generate(self, **options: Any) -> Any:
        model: Any = self.model
        return model.generate(**options)

    @torch.no_grad()
    def _checked(self) -> bool:
        """Whether texts of different lengths can be continued together.

        Raises:
            UnsupportedModelError: the model cannot continue a single text from embeddings.
        """
        vocabulary = self._inputs.rows
        texts = [[(7 * i + 3) % vocabulary for i in range(length)] for length in (9, 21)]
        rows = [self._inputs.of([(tuple(text),)], {}) for text in texts]
        name = type(self.model).__name__
        try:
            tokens = self._first_logits(input_ids=torch.tensor(texts[:1], device=self._inputs.device))
            alone = self._first_logits(**self._together(rows[:1]))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's own code may raise
            raise UnsupportedModelError(
                f"{name} cannot continue a text from embeddings: {reason(error)}; choose another model"
            ) from error
        if difference(alone, tokens, self.model.dtype):
            raise UnsupportedModelError(
                f"{name} continues embeddings differently from the same tokens' ids; choose another model"
            )
        try:
            together = self._first_logits(**self._together(rows))[:, :1]
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        return not difference(together, tokens, self.model.dtype)

    def _first_logits(self, **given: torch.Tensor) -> torch.Tensor:
        """Logits ``(2, B, vocabulary)`` of the first two new tokens."""
        quiet = GenerationConfig(max_new_tokens=2, min_new_tokens=2, do_sample=False, pad_token_id=0)
        output = self._generate(**given, generation_config=quiet, output_logits=True, return_dict_in_generate=True)
        return torch.stack(output.logits)

    def decode(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _given(self, text: Segments, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
        if prompt.ndim != 2 or prompt.shape[1] != self.hidden_size or not len(prompt):
            raise MismatchError(f"the prompt must be (length, {self.hidden_size}), got {tuple(prompt.shape)}")
        return self._inputs.of([text], {USER: prompt[None]})


def _only_first(model: Any) -> None:
    """Make generation pass per-layer embeddings for the first step only; for new tokens the model looks them up."""
    prepare = model.prepare_inputs_for_generation

    def prepared(*arguments: Any, **options: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(*arguments, **options)
        if inputs.get("input_ids") is not None:
            inputs.pop("per_layer_inputs", None)
        return inputs

    known = {**inspect.signature(prepare).parameters}  # generate reads them
    named = inspect.Parameter("per_layer_inputs", inspect.Parameter.KEYWORD_ONLY)
    last = [known.popitem()[1]] if list(known.values())[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    prepared.__signature__ = inspect.Signature([*known.values(), named, *last])  # type: ignore[attr-defined]
    model.prepare_inputs_for_generation = prepared
