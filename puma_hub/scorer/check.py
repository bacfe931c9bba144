"""The check at loading: the scorer's logits are compared with those of the model's plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.encoding import EncodedRows, with_tokens
from puma_hub.scorer.forward import WHOLE, Forward, Way
from puma_hub.scorer.inputs import Batch, ModelInputs, SoftIds
from puma_hub.scorer.models import accepted_arguments
from puma_hub.tasks.template import SoftSlot

_ALLOWED = {torch.float32: 1e-3, torch.float64: 1e-3}  # relative to the largest logit
_ALLOWED_IN_HALF = 5e-2


class LoadingCheck:
    """A few short rows, with the model's own logits for each of them alone.

    The rows are scored as plain text from token ids, and with random prompts, which are not the embedding of any token.

    Args:
        model: the caller's model, with all its outputs.
        rows: rows of different lengths.
        answer_ids: the answers' token ids.

    Raises:
        UnsupportedModelError: the model cannot be scored. The message has the reason.
    """

    def __init__(self, model: PreTrainedModel, rows: EncodedRows, answer_ids: Sequence[int]) -> None:
        self._model, self._rows = model, rows
        self._name = type(model).__name__
        self._answers = torch.tensor(answer_ids)
        self._inputs = ModelInputs(model)
        self._options = {"use_cache": False} if "use_cache" in accepted_arguments(model) else {}
        count = len(rows)
        slots = [segment.name for segment in rows.segments[0] if isinstance(segment, SoftSlot)]
        stand = torch.tensor([[answer_ids[i % 2], answer_ids[1 - i % 2]] for i in range(count)])
        self._soft_ids: SoftIds = dict.fromkeys(slots, stand)
        self._text = torch.cat([self._of_text(i) for i in range(count)])
        self._require_finite(self._text)
        embeds = self._inputs.embed(stand.to(self._inputs.device)).float()
        noise = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(0)).to(embeds.device)
        as_text = Batch(rows, dict.fromkeys(slots, embeds), self._soft_ids)
        as_noise = Batch(rows, dict.fromkeys(slots, noise * embeds.square().mean().sqrt()))
        fault = self._compared(self._guarded(_EMBEDDINGS, self._of_embeddings, as_text), self._text)
        if fault:
            raise self._refusal(f"gives other logits for inputs_embeds than for the same tokens' ids ({fault})")
        self._expected = ((as_text, self._text), (as_noise, self._guarded(_EMBEDDINGS, self._of_embeddings, as_noise)))
        self._require_causal()

    @torch.no_grad()
    def choose(self, forward: Forward, policy: str) -> None:
        """Set the fastest way of scoring in ``forward`` that is exact and possible under ``policy``.

        Raises:
            UnsupportedModelError: no way is exact.
        """
        fault = ""
        for way in forward.cached_ways() if policy != "off" else ():
            found = self._fault(forward, way)
            if found is None:
                return
            fault = fault or found
        whole = ""
        for way in WHOLE:
            found = self._fault(forward, way)
            if found is None and policy in ("auto", "off"):
                return
            if found is None:
                raise self._refusal(
                    f"cannot be scored from a cached prefix: it {fault or 'takes no such cache, mask and positions'}",
                    "use prefix_cache='off', or 'auto'",
                )
            whole = found
        if self._depends_on_batch():
            raise self._refusal(_BATCH, _WHOLE_LAYERS)
        raise self._refusal(whole)

    def _fault(self, forward: Forward, way: Way) -> str | None:
        """Why scoring this way is not exact, or None if it is exact."""
        forward.take(way)
        name = "in a batch or alone" if way.kind is None else "from a cached prefix"
        try:
            cache = forward.new_cache(
                "full"
            )  # prefixes are always computed in one shape, so one cache serves all batches
            for numbers in (list(range(len(self._rows))), [0]):
                for whole, expected in self._expected:
                    batch = whole.take(numbers)
                    logits = forward.whole(batch) if cache is None else forward.from_prefix(batch, cache)
                    fault = self._compared(logits, expected[numbers])
                    if fault:
                        return f"gives other logits {name} than for the plain text ({fault})"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return f"fails {name}: {reason(error)}"
        return None

    @torch.no_grad()
    def _own(self, **given: Any) -> torch.Tensor:
        logits: torch.Tensor = self._model(**given, **self._options).logits
        return logits

    def _of_text(self, row: int, cut: int = 0) -> torch.Tensor:
        ids = self._tokens(row)
        return self._guarded(_TEXT, lambda: self._at(self._own(input_ids=self._ids([ids[: len(ids) - cut]])), -1))

    def _tokens(self, row: int) -> list[int]:
        return with_tokens(self._rows.segments[row], {n: ids[row].tolist() for n, ids in self._soft_ids.items()})

    def _ids(self, ids: list[list[int]]) -> torch.Tensor:
        return torch.tensor(ids, device=self._inputs.device)

    def _of_embeddings(self, batch: Batch) -> torch.Tensor:
        parts = [batch.take([i]) for i in range(len(batch))]
        given = [self._inputs.of(part.rows.segments, part.prompts, part.soft_ids) for part in parts]
        return torch.cat([self._at(self._own(**one), -1) for one in given])

    def _at(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        return logits[:, position, self._answers.to(logits.device)].float()

    def _guarded(self, doing: str, call: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        try:
            return call(*arguments)
        except (torch.OutOfMemoryError, UnsupportedModelError):
            raise
        except Exception as error:  # whatever a model's own code may raise
            raise self._refusal(f"fails on {doing}: {reason(error)}") from error

    def _require_finite(self, logits: torch.Tensor) -> None:
        bad = int((~logits.isfinite()).sum())
        if bad:
            raise UnsupportedModelError(
                f"{bad} of {logits.numel()} answer logits of {self._name} are not finite in "
                f"{str(self._model.dtype).removeprefix('torch.')}; load it with dtype='bfloat16' or 'float32'"
            )

    def _require_causal(self) -> None:
        longest = max(range(len(self._rows)), key=lambda i: len(self._rows.prefixes[i]))
        ids = self._tokens(longest)
        before = self._guarded(_TEXT, lambda: self._at(self._own(input_ids=self._ids([ids])), -2))
        fault = self._compared(self._of_text(longest, cut=1), before)
        if fault and self._depends_on_batch():
            raise self._refusal(_BATCH, _WHOLE_LAYERS)
        if fault:
            raise self._refusal(f"is not purely causal: a token changes the logits of the one before it ({fault})")

    def _depends_on_batch(self) -> bool:
        ids = [self._tokens(i) for i in range(2)]
        length = min(map(len, ids))
        ids = [row[:length] for row in ids]
        together = self._at(self._own(input_ids=self._ids(ids)), -1)
        alone = torch.cat([self._at(self._own(input_ids=self._ids([row])), -1) for row in ids])
        return self._compared(together, alone) is not None

    def _compared(self, found: torch.Tensor, expected: torch.Tensor) -> str | None:
        self._require_finite(found)
        return difference(found, expected, self._model.dtype)

    def _refusal(self, what: str, advice: str = "choose another model") -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._name} {what}; {advice}")


_TEXT, _EMBEDDINGS = "a short text", "inputs_embeds"
_WHOLE_LAYERS = "load it without quantisation, or choose another model"
_BATCH = "gives a row other logits beside other rows than alone, as 8-bit layers do"


def difference(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> str | None:
    """A text on how far logits computed in ``dtype`` are from ``expected``; None if they agree up to rounding."""
    allowed = _ALLOWED.get(dtype, _ALLOWED_IN_HALF) * float(expected.abs().max()) + 1e-6
    largest = float((found - expected.to(found.device)).abs().max())
    return None if largest <= allowed else f"difference {largest:.3g}, allowed {allowed:.3g}"


def reason(error: Exception) -> str:
    """The error's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
