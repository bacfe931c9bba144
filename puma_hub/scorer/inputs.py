"""What a model reads: the embeddings of tokens and soft prompts, and what else it takes with each token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from puma_hub.errors import MismatchError
from puma_hub.scorer.encoding import right_padded
from puma_hub.scorer.tokens import Tokens


class ModelInputs:
    """Makes the inputs of a model's forward out of token ids and soft prompts.

    Some models (Gemma 3n, Gemma 4 E2B and E4B) have a second embedding of each token for every layer. A soft prompt
    is no token; it takes that of the padding token, as images and sounds do in these models.
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
        """Whether each layer has an embedding of its own for every token."""
        return self._look_up is not None

    @property
    def device(self) -> torch.device:
        """Where inputs belong: of an offloaded model where it computes."""
        place = getattr(getattr(self._embed, "_hf_hook", None), "execution_device", None)
        return self._embed.weight.device if place is None else torch.device(place)

    @property
    def rows(self) -> int:
        """The number of tokens that have an embedding."""
        return int(self._embed.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self._embed.weight.shape[1])

    def require_known(self, texts: Iterable[Sequence[int]]) -> None:
        """Refuse tokens that have no embedding.

        Raises:
            MismatchError: there are some.
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
        """The inputs of tokens ``(B, n)`` alone."""
        return {"inputs_embeds": self.embed(ids), **self._with_layers(ids)}

    def of(
        self,
        before: Sequence[Tokens],
        prompts: torch.Tensor,
        after: Sequence[Tokens],
        soft_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The inputs of rows ``before[i]``, ``prompts[i] (l, d)``, ``after[i]``, padded on the right.

        Args:
            soft_ids: tokens ``(B, l)`` that the prompts stand for, where they do.
        """
        device, length = self.device, prompts.shape[1]
        rows = [first + (self._soft_id,) * length + last for first, last in zip(before, after)]
        ids, _ = right_padded(rows, device)
        places = torch.tensor([len(first) for first in before], device=device)[:, None]
        places = places + torch.arange(length, device=device)
        number = torch.arange(len(rows), device=device)[:, None]
        if soft_ids is not None:
            ids[number, places] = soft_ids.to(device)
        embeds = self.embed(ids).index_put((number, places), prompts.to(device, self.model.dtype))
        return {"inputs_embeds": embeds, **self._with_layers(ids)}

    def _with_layers(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._look_up is None:
            return {}
        return {"per_layer_inputs": self._look_up(ids)}
