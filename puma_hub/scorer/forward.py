"""The forward pass of rows with soft prompts: of whole rows, or from cached states of their prefixes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from puma_hub.scorer import attention
from puma_hub.scorer.caches import CacheKind, Packing, PrefixCache, States, cache_kinds
from puma_hub.scorer.encoding import text_length
from puma_hub.scorer.inputs import Batch, ModelInputs
from puma_hub.scorer.models import accepted_arguments
from puma_hub.scorer.padding import padded, real_tokens
from puma_hub.scorer.tokens import Tokens


@dataclass(frozen=True)
class Way:
    """A way to compute the logits of rows.

    Args:
        kind: the kind of cached prefix states; None to compute whole rows.
        grouped: use :data:`attention.GROUPED_SDPA`.
        apart: attend to the prefix and the new tokens separately, without joining them.
        even: batch only rows of the same length.
    """

    kind: CacheKind | None = None
    grouped: bool = False
    apart: bool = False
    even: bool = False


WHOLE = (Way(), Way(even=True))


class Forward:
    """Computes answer logits.

    Args:
        model: a model of :func:`puma_hub.scorer.answer_head.with_answer_head`. It gives the logits of the answers, or
            of all tokens.
        answer_ids: the answers' token ids.
        cache: the name of the cache argument of the model's forward, if it has one.
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
        """Compute logits in this way from now on."""
        wanted = attention.GROUPED_SDPA if way.grouped else self._attention
        if wanted != getattr(self.model.config, "_attn_implementation", None):
            attention.use(self.model, wanted)
        self.way = way

    def cached_ways(self) -> list[Way]:
        """The ways with cached prefixes that may fit the model, fastest first."""
        ways: list[Way] = []
        for made in cache_kinds() if self._argument is not None else ():
            kind = made(self.model.config)
            if kind.padded and not {"attention_mask", "position_ids"} <= self._accepted:
                continue
            if kind.grouped and self._attention == "sdpa":
                ways += [Way(kind, grouped=True, apart=True), Way(kind, grouped=True)]
            ways.append(Way(kind))
        return ways

    def new_cache(self, policy: str, budget: int | None = None, packing: Packing | None = None) -> PrefixCache | None:
        """An empty cache for the current way; None if whole rows are computed."""
        kind = self.way.kind
        if kind is None:
            return None
        token = kind.of_row(self.prefix_states([(int(self._answers[0]),)], 1), 0, 1)
        return PrefixCache(kind, self.prefix_states, policy, budget, token, packing)

    # Whole rows

    def whole(self, batch: Batch) -> torch.Tensor:
        """Logits ``(B, answers)``, computed from the first token of each row.

        Shorter rows are padded on the right. Tokens before the padding cannot see it, so the model needs neither mask
        nor positions: its defaults are those of a single row.
        """
        if not self.way.even:
            return self._whole(batch)
        return _by_length([text_length(row) for row in batch.rows.segments], batch, self._whole)

    def _whole(self, batch: Batch) -> torch.Tensor:
        given = self.inputs.of(batch.rows.segments, batch.prompts, batch.soft_ids)
        last = torch.tensor([text_length(row) for row in batch.rows.segments]) + (batch.soft_length - 1)
        return self._answers_at(last, self._usable(use_cache=False), given)

    # From cached prefixes

    def from_prefix(self, batch: Batch, cache: PrefixCache) -> torch.Tensor:
        """Logits ``(B, answers)`` of rows whose prefixes are in ``cache``."""
        kind = self.way.kind
        assert kind is not None
        if kind.padded:
            return self._from_prefix(batch, kind, cache)

        def of_one_length(part: Batch) -> torch.Tensor:
            return self._from_prefix(part, kind, cache) if part.rows.prefixes[0] else self._whole(part)

        return _by_length([len(prefix) for prefix in batch.rows.prefixes], batch, of_one_length)

    def _from_prefix(self, batch: Batch, kind: CacheKind, cache: PrefixCache) -> torch.Tensor:
        # Layout: left padding, prefix, the rest from the first soft slot, right padding. Positions skip the padding.
        device, prefixes = self.inputs.device, batch.rows.prefixes
        with self._lock:
            states = cache.gather(prefixes)
        new = torch.tensor(batch.rows.text_after) + batch.soft_length
        options: dict[str, Any] = {}
        if kind.padded:
            lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
            width = int(lengths.max())
            after = real_tokens(new.to(device), int(new.max()), "right")
            mask = torch.cat([real_tokens(lengths, width, "left"), after], 1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, width:]
            options = {"attention_mask": mask.long(), "position_ids": positions}
        past, more = kind.forward_options(states, self.way.apart)
        given = self.inputs.of([row[1:] for row in batch.rows.segments], batch.prompts, batch.soft_ids)
        return self._answers_at(new - 1, {**options, **self._with_cache(past), **more}, given)

    @torch.no_grad()
    def prefix_states(self, prefixes: Sequence[Tokens], width: int) -> States:
        """The layers' cached states of the prefixes. On the left they are padded to ``width`` with arbitrary values."""
        kind = self.way.kind
        assert kind is not None
        # Models cannot compute zero tokens, so an empty prefix is computed as one padding token.
        ids, mask = padded([prefix or (0,) for prefix in prefixes], "left", self.inputs.device, width)
        options: dict[str, Any] = {}
        if kind.padded:
            options = {"attention_mask": mask.long(), "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        cache = kind.empty()
        self.model(**self.inputs.of_ids(ids), **options, **self._with_cache(cache), **self._usable(logits_to_keep=1))
        return kind.taken(cache)

    def _with_cache(self, cache: Any) -> dict[str, Any]:
        assert self._argument is not None
        return {"use_cache": True, self._argument: cache}

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


def _by_length(lengths: Sequence[int], batch: Batch, score: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
    """Scores of ``batch``, in its order. Only rows of the same length are scored together."""
    if len(set(lengths)) == 1:
        return score(batch)
    groups = [[i for i, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))]
    parts = torch.cat([score(batch.take(numbers)) for numbers in groups])
    order = torch.tensor([i for numbers in groups for i in numbers], device=parts.device)
    return parts[order.argsort()]
