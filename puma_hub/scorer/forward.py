"""Rows with their soft prompts through a model: whole, or from the cached states of their prefixes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from puma_hub.scorer import attention
from puma_hub.scorer.encoding import EncodedRows, left_padded
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.models import accepted_arguments
from puma_hub.scorer.prefix_cache import PrefixCache, stack_cache
from puma_hub.scorer.tokens import Tokens


@dataclass(frozen=True)
class Way:
    """How rows go through the model.

    ``cached``: from the states of their prefixes, which ``apart`` keeps apart from the new tokens' in attention.
    ``even``: only rows of one length together. ``grouped``: with :data:`attention.GROUPED_SDPA`.
    """

    cached: bool = False
    grouped: bool = False
    apart: bool = False
    even: bool = False


CACHED = (Way(True, True, True), Way(True, True), Way(True))
WHOLE = (Way(), Way(even=True))


class Forward:
    """Answer logits by a model whose output layer knows the answers, or all tokens.

    Args:
        model: of :func:`puma_hub.scorer.answer_head.with_answer_head`.
        answer_ids: the answers' token ids.
        cache: what the model's forward calls its key/value cache, if it has one.
    """

    def __init__(self, model: PreTrainedModel, answer_ids: Sequence[int], cache: str | None) -> None:
        self.model = model
        self.inputs = ModelInputs(model)
        self._answers = torch.tensor(answer_ids)
        self._argument = cache
        self._accepted = accepted_arguments(model)
        self._attention: Any = getattr(model.config, "_attn_implementation", None)
        self.way = Way()
        self._lock = threading.RLock()

    def take(self, way: Way) -> None:
        """Go this way from now on."""
        wanted = attention.GROUPED_SDPA if way.grouped else self._attention
        if wanted != getattr(self.model.config, "_attn_implementation", None):
            attention.use(self.model, wanted)
        self.way = way

    def ways(self, cached: bool) -> tuple[Way, ...]:
        """Those that the model has, the fastest first."""
        if not cached:
            return WHOLE
        if self._argument is None or not {"attention_mask", "position_ids"} <= self._accepted:
            return ()
        return CACHED if self._attention == "sdpa" else CACHED[2:]

    # All of a row

    def whole(self, prompts: torch.Tensor, rows: EncodedRows, soft_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``(B, answers)`` of rows that go through the model from their first token on.

        Shorter rows are padded on the right. Nothing before padding can see it, so the model needs neither mask nor
        positions: it has them as for one row alone.
        """
        lengths = [len(p) + len(s) for p, s in zip(rows.prefixes, rows.suffixes)]
        if not self.way.even or len(set(lengths)) == 1:
            return self._whole(prompts, rows, soft_ids)
        parts: list[torch.Tensor] = []
        order: list[int] = []
        for length in sorted(set(lengths)):
            numbers = [i for i, other in enumerate(lengths) if other == length]
            parts.append(
                self._whole(prompts[numbers], rows.take(numbers), None if soft_ids is None else soft_ids[numbers])
            )
            order += numbers
        return torch.cat(parts)[torch.tensor(order, device=parts[0].device).argsort()]

    def _whole(self, prompts: torch.Tensor, rows: EncodedRows, soft_ids: torch.Tensor | None) -> torch.Tensor:
        given = self.inputs.of(rows.prefixes, prompts, rows.suffixes, soft_ids)
        length = prompts.shape[1]
        last = torch.tensor([len(p) + length + len(s) - 1 for p, s in zip(rows.prefixes, rows.suffixes)])
        return self._answers_at(last, self._usable(use_cache=False), given)

    # From cached prefixes

    def from_prefix(
        self, prompts: torch.Tensor, rows: EncodedRows, cache: PrefixCache, soft_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits ``(B, answers)`` of rows whose prefixes are in ``cache``."""
        # Layout: left padding, prefix, prompt, suffix, right padding; positions count real tokens only.
        device = self.inputs.device
        with self._lock:
            states, lengths = cache.gather(rows)
        assert self._argument is not None
        past = attention.prefix_arguments(self._argument, states, self.way.apart)
        width = int(lengths.max())
        prefix_mask = torch.arange(width, device=device)[None] >= width - lengths[:, None].to(device)
        suffix_lengths = torch.tensor([len(suffix) for suffix in rows.suffixes], device=device)
        suffix_mask = torch.arange(int(suffix_lengths.max()), device=device)[None] < suffix_lengths[:, None]
        ones = torch.ones(prompts.shape[:2], dtype=torch.bool, device=device)
        mask = torch.cat([prefix_mask, ones, suffix_mask], 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, width:]
        given = self.inputs.of([()] * len(rows), prompts, rows.suffixes, soft_ids)
        options = {"attention_mask": mask.long(), "position_ids": positions, "use_cache": True, **past}
        return self._answers_at(prompts.shape[1] - 1 + suffix_lengths.cpu(), options, given)

    @torch.no_grad()
    def prefix_states(self, prefixes: Sequence[Tokens], width: int) -> torch.Tensor:
        """The prefixes' states as of :func:`stack_cache`, padded on the left with states of any values."""
        # Models cannot run over no tokens at all, so an empty prefix is computed as one token, which is padding.
        ids, mask = left_padded([prefix or (0,) for prefix in prefixes], self.inputs.device, width)
        cache = DynamicCache()
        assert self._argument is not None
        self.model(
            **self.inputs.of_ids(ids),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            **self._usable(logits_to_keep=1),
            **{self._argument: cache},
        )
        return stack_cache(cache)

    def _usable(self, **options: Any) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in self._accepted}

    def _answers_at(self, last: torch.Tensor, options: dict[str, Any], given: dict[str, Any]) -> torch.Tensor:
        length = given["inputs_embeds"].shape[1]
        kept = length - int(last.min())
        logits = self.model(**given, **options, **self._usable(logits_to_keep=kept)).logits
        device = logits.device
        chosen = logits[torch.arange(len(last), device=device), (last - (length - logits.shape[1])).to(device)]
        if chosen.shape[-1] != len(self._answers):
            chosen = chosen[:, self._answers.to(device)]
        return chosen.to(self.inputs.device).float()
