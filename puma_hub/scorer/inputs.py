"""The inputs of a model: embeddings of tokens and soft prompts, and further per-token inputs of some models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from puma_hub.errors import MismatchError
from puma_hub.scorer.encoding import EncodedRows
from puma_hub.scorer.padding import padded
from puma_hub.scorer.tokens import Tokens
from puma_hub.tasks.template import SoftSlot

Prompts = Mapping[str, torch.Tensor]
"""Soft prompts by the names of their slots: float ``(B, l, d)`` each. Lengths may differ between slots."""
SoftIds = Mapping[str, torch.Tensor]
"""Tokens whose embeddings the soft prompts are, if they are, by the names of their slots: int64 ``(B, l)`` each."""


@dataclass(frozen=True)
class Batch:
    """Rows that are scored together, with their soft prompts."""

    rows: EncodedRows
    prompts: Prompts
    soft_ids: SoftIds | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def soft_length(self) -> int:
        """The total number of positions of a row's prompts."""
        return sum(prompts.shape[1] for prompts in self.prompts.values())

    def take(self, numbers: list[int]) -> Batch:
        """Return the rows with these numbers."""
        soft_ids = self.soft_ids and {name: ids[numbers] for name, ids in self.soft_ids.items()}
        return Batch(self.rows.take(numbers), {name: p[numbers] for name, p in self.prompts.items()}, soft_ids)


class ModelInputs:
    """Makes the inputs of a model's forward from token ids and soft prompts.

    Some models (Gemma 3n, Gemma 4 E2B and E4B) have a second embedding of each token for every layer. A soft prompt
    is not a token, so it gets that of the padding token, as images and audio do in these models.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._embed: Any = model.get_input_embeddings()
        text = model.config.get_text_config()
        has_layers = bool(getattr(text, "hidden_size_per_layer_input", None))
        owners = [m for m in model.modules() if hasattr(type(m), "get_per_layer_inputs")] if has_layers else []
        self._look_up: Any = owners[-1].get_per_layer_inputs if owners else None
        self._soft_id = int(getattr(text, "pad_token_id", None) or 0)

    @property
    def has_layers(self) -> bool:
        """Whether every token has a separate embedding for each layer."""
        return self._look_up is not None

    @property
    def device(self) -> torch.device:
        """The device of the inputs: for an offloaded model, the one it computes on."""
        place = getattr(getattr(self._embed, "_hf_hook", None), "execution_device", None)
        return self._embed.weight.device if place is None else torch.device(place)

    @property
    def rows(self) -> int:
        """The number of tokens with an embedding."""
        return int(self._embed.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self._embed.weight.shape[1])

    def require_known(self, texts: Iterable[Sequence[int]]) -> None:
        """Check that all tokens have an embedding.

        Raises:
            MismatchError: some tokens have none.
        """
        rows = self.rows
        unknown = {token for tokens in texts if tokens and max(tokens) >= rows for token in tokens if token >= rows}
        if unknown:
            raise MismatchError(
                f"{len(unknown)} tokens of these texts (ids {', '.join(map(str, sorted(unknown)[:5]))}) have no "
                f"embedding, the model has {rows}: the tokenizer is another model's, or tokens were added to it; call "
                f"model.resize_token_embeddings({max(unknown) + 1}) and train these tokens, or give the model's own "
                "tokenizer"
            )

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings ``(..., d)`` of token ids, in the model's dtype."""
        return self._embed(ids).to(self.device, self.model.dtype)

    def of_ids(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs of tokens ``(B, n)`` without soft prompts."""
        return {"inputs_embeds": self.embed(ids), **self._with_layers(ids)}

    def of(
        self, rows: Iterable[Iterable[Tokens | SoftSlot]], prompts: Prompts, soft_ids: SoftIds | None = None
    ) -> dict[str, torch.Tensor]:
        """The inputs of rows, padded on the right, with ``prompts`` in the soft slots."""
        device = self.device
        places: dict[str, list[int]] = {name: [] for name in prompts}
        texts: list[list[int]] = []
        for row in rows:
            texts.append([])
            for segment in row:
                if isinstance(segment, SoftSlot):
                    places[segment.name].append(len(texts[-1]))
                    texts[-1] += [self._soft_id] * prompts[segment.name].shape[1]
                else:
                    texts[-1] += segment
        ids, _ = padded(texts, "right", device)
        number = torch.arange(len(texts), device=device)[:, None]
        at = {
            name: torch.tensor(starts, device=device)[:, None] + torch.arange(prompts[name].shape[1], device=device)
            for name, starts in places.items()
        }
        for name, known in (soft_ids or {}).items():
            ids[number, at[name]] = known.to(device)
        embeds = self.embed(ids)
        for name, prompt in prompts.items():
            embeds = embeds.index_put((number, at[name]), prompt.to(device, self.model.dtype))
        return {"inputs_embeds": embeds, **self._with_layers(ids)}

    def _with_layers(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._look_up is None:
            return {}
        return {"per_layer_inputs": self._look_up(ids)}
