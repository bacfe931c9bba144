"""Writing text with soft prompts: several texts a batch, each with a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import BankError, MismatchError, TemplateError
from puma_hub.scorer.encoding import Tokens, leading_tokens
from puma_hub.scorer.models import cache_argument, max_positions

SLOT = "<user>"


class TextGenerator:
    """Continues texts in which a soft prompt stands.

    Raises:
        UnsupportedModelError: the model is not decoder-only, or takes no embeddings.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        cache_argument(model)
        self.model = model
        self.tokenizer = tokenizer
        self._leading = leading_tokens(tokenizer)
        self._longest = max_positions(model)

    @property
    def hidden_size(self) -> int:
        embeddings: Any = self.model.get_input_embeddings()
        return int(embeddings.weight.shape[1])

    def split(self, text: str, slot: str = SLOT, leading: bool = True) -> tuple[Tokens, Tokens]:
        """The token ids before and after the slot.

        Args:
            leading: begin with what the tokenizer puts before every text, such as ``<bos>``.

        Raises:
            TemplateError: the slot does not stand in the text exactly once.
        """
        if text.count(slot) != 1:
            raise TemplateError(f"the text must hold {SLOT} exactly once, found {text.count(slot)} times")
        before, after = text.split(slot)
        return (self._leading if leading else ()) + self._tokens(before), self._tokens(after)

    def _tokens(self, text: str) -> Tokens:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def generate(
        self, parts: Sequence[tuple[Tokens, Tokens]], prompts: Sequence[torch.Tensor], **options: Any
    ) -> torch.Tensor:
        """New token ids ``(B, sequences a text, tokens)``; ``options`` are ``model.generate``'s.

        Texts are padded on the left under the attention mask, so positions count real tokens only and a text is
        continued as it would be alone.

        Args:
            parts: of :meth:`split`, one a text.
            prompts: soft prompts ``(l, d)``, one a text.

        Raises:
            MismatchError: a prompt has another shape.
            BankError: the number of prompts differs from the number of texts.
            TemplateError: a text with its prompt does not fit the model's context.
        """
        if len(prompts) != len(parts):
            raise BankError(f"{len(prompts)} prompts for {len(parts)} texts; give one prompt for each text")
        rows = [self._embedded(*tokens, torch.as_tensor(prompt)) for tokens, prompt in zip(parts, prompts)]
        width = max(len(row) for row in rows)
        if width >= self._longest:
            raise TemplateError(
                f"a text needs {width} positions with its prompt and one for each new token, the model has "
                f"{self._longest}; shorten the text"
            )
        embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        mask = torch.arange(width, device=embeds.device)[None] >= width - lengths[:, None]
        model: Any = self.model
        output: Any = model.generate(inputs_embeds=embeds, attention_mask=mask.long(), **options)
        ids: torch.Tensor = getattr(output, "sequences", output)
        return ids.reshape(len(rows), -1, ids.shape[-1])

    def decode(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _embedded(self, before: Tokens, after: Tokens, prompt: torch.Tensor) -> torch.Tensor:
        if prompt.ndim != 2 or prompt.shape[1] != self.hidden_size or not len(prompt):
            raise MismatchError(f"the prompt must be (length, {self.hidden_size}), got {tuple(prompt.shape)}")
        embed: Any = self.model.get_input_embeddings()
        device, dtype = self.model.device, self.model.dtype
        first, last = (embed(torch.tensor(ids, dtype=torch.long, device=device)).to(dtype) for ids in (before, after))
        return torch.cat([first, prompt.to(device, dtype), last])
