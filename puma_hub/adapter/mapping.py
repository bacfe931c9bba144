"""Arrays of prompts through an adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from puma_hub.adapter.alignment import Alignment, joined_means
from puma_hub.bank.reference import Reference
from puma_hub.errors import BankError, MismatchError

if TYPE_CHECKING:
    from puma_hub.adapter.model import PumaAdapter

# Matrix products of few rows may differ in the last bits. With this many rows, a prompt is mapped to the same bits
# alone and among others.
_LEAST_ROWS = 32
ABSURD = 10.0
"""Prompts so many times farther from their mean than any of the source bank's users are refused."""


def map_prompts(
    adapter: PumaAdapter, prompts: np.ndarray, batch_size: int, references: Sequence[Reference] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Map source prompts ``(N, l, d_source)``, ``batch_size`` at a time; see :class:`PromptMap`."""
    target = adapter.config.require_pair()
    result = np.empty((len(prompts), adapter.config.prompt_length, target.hidden_size), dtype=np.float32)
    distances = np.empty(len(prompts))
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        result[part], distances[part] = map_batch(adapter, prompts[part], references)
    return result, distances


def map_batch(
    adapter: PumaAdapter, prompts: np.ndarray, references: Sequence[Reference] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Map source prompts ``(n, l, d_source)`` at once, on the adapter's device; see :class:`PromptMap`."""
    was_training = adapter.training
    try:
        return PromptMap(adapter.eval(), references)(prompts)
    finally:
        adapter.train(was_training)


class PromptMap:
    """An adapter as a function of prompts ``(n, l, d_source)``, on the adapter's device.

    On a CPU a prompt's bits do not depend on the prompts beside it, nor on how many there are. It may be called by
    several threads at once and pickled for another process.

    Args:
        adapter: in evaluation mode, as long as the map is used.
        references: mean and sensitivity by which the prompts of each source are standardised; those of the adapter's
            own source banks by default.
    """

    def __init__(self, adapter: PumaAdapter, references: Sequence[Reference] | None = None) -> None:
        self.adapter = adapter
        self.align = None if references is None else Alignment.of(adapter, references)
        self.center = None if references is None else torch.from_numpy(joined_means(references)).to(adapter.device)

    @torch.no_grad()
    def __call__(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map a batch.

        Returns:
            Target prompts, float32 ``(n, l, d_target)``, and distances float64 ``(n,)``: the root mean square of each
            standardised prompt, about 1 where the prompts are like those of the source bank.

        Raises:
            MismatchError: a prompt lies absurdly far from the mean.
            BankError: the result is not finite.
        """
        adapter, rows = self.adapter, len(prompts)
        values = prompts if prompts.flags.writeable else np.array(prompts)  # torch shares memory that may be written
        padded = torch.from_numpy(values).to(adapter.device)
        if rows < _LEAST_ROWS:
            padded = torch.cat([padded, padded.new_zeros(_LEAST_ROWS - rows, *padded.shape[1:])])
        if self.align is not None:
            padded = self.align(padded)
        offsets = adapter.standardized(padded, self.center)
        squares = torch.linalg.vector_norm(offsets[:rows], dim=(1, 2), dtype=torch.float64)
        distances: np.ndarray = (squares / math.sqrt(offsets[0].numel())).cpu().numpy()
        result: np.ndarray = adapter.of_offsets(offsets)[:rows].float().cpu().numpy()
        _require_near(adapter, distances)
        if rows and not np.isfinite([result.min(), result.max()]).all():  # both are NaN where one value is
            raise BankError(
                "the adapter gave NaN or infinite prompts; it is damaged or these prompts are not its source's"
            )
        return result, distances


def _require_near(adapter: PumaAdapter, distances: np.ndarray) -> None:
    trained = adapter.config.trained_on
    if trained is None or not len(distances):
        return
    far = distances > ABSURD * max(trained.farthest, 1.0)
    if far.any() and not any(bank.spread for bank in trained.sources):
        raise MismatchError(
            "the adapter's source bank has the same prompt for every user, so it cannot be told how far these prompts "
            "are from it; train that bank with more rows for each user, and the adapter again"
        )
    if far.any():
        raise MismatchError(
            f"{int(far.sum())} of {len(distances)} prompts lie up to {float(distances.max()):.3g} spreads from the "
            f"mean, no user of the adapter's source bank lies farther than {trained.farthest:.3g}: they are of another "
            "LLM, in another scale, or the mean is not theirs; check bank and mean="
        )
