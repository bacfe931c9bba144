"""Correct the offsets of users of another training for the sensitivity at its base.

Two trainings end in different bases. An LLM is not equally sensitive at both: the same offset moves the mean prediction
farther at one base than at the other. So an offset is changed as little as possible, such that it moves the mean
prediction at the adapter's base as far as it did at its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from puma_hub.bank.reference import Reference

if TYPE_CHECKING:
    from puma_hub.adapter.model import PumaAdapter


def own_reference(adapter: PumaAdapter, number: int) -> Reference:
    """The reference of the bank that source ``number`` of the adapter was trained on."""
    part = _part(adapter, number)
    mean, sensitivity = (
        np.array(tensor[:, part].detach().cpu().float().numpy())
        for tensor in (adapter.input_mean, adapter.input_sensitivity)
    )
    return Reference(mean, sensitivity if sensitivity.any() else None)


def joined_means(references: Sequence[Reference]) -> np.ndarray:
    """The mean prompts side by side, ``(l, sum of source sizes)``."""
    return np.concatenate([reference.mean for reference in references], axis=-1)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Corrects the offsets of prompts ``(B, l, sum of source sizes)`` for the adapter's sensitivity.

    Let ``g`` be the sensitivity of a prompt's own training and ``a`` that of the adapter's source bank. An offset ``o``
    becomes ``o + a ((g - a) . o) / (a . a)``, the nearest offset with ``a . offset = g . o``. Prompts of the adapter's
    own source bank stay as they are, to the bit.

    Args:
        sources: of each source that is corrected its coordinates, mean, ``g - a`` and ``a / (a . a)``.
    """

    sources: tuple[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(cls, adapter: PumaAdapter, references: Sequence[Reference]) -> Alignment | None:
        """None where nothing is to be corrected: a sensitivity is not known, or is the same."""
        sources = []
        for number, reference in enumerate(references):
            ours, theirs = own_reference(adapter, number).sensitivity, reference.sensitivity
            if ours is None or theirs is None or np.array_equal(ours, theirs):
                continue
            arrays = reference.mean, theirs - ours, ours / np.square(ours, dtype=np.float64).sum()
            # In the prompts' dtype, whatever the adapter's is.
            mean, difference, direction = (torch.from_numpy(np.array(one)).float().to(adapter.device) for one in arrays)
            sources.append((_part(adapter, number), mean, difference, direction))
        return cls(tuple(sources)) if sources else None

    def __call__(self, prompts: torch.Tensor) -> torch.Tensor:
        changed = prompts.clone()
        for part, mean, difference, direction in self.sources:
            lacking = ((prompts[..., part] - mean) * difference).double().sum((1, 2)).to(prompts)
            changed[..., part] += lacking[:, None, None] * direction
        return changed


def _part(adapter: PumaAdapter, number: int) -> slice:
    """The coordinates of source ``number``."""
    sizes = [spec.hidden_size for spec in adapter.config.sources]
    return slice(sum(sizes[:number]), sum(sizes[: number + 1]))
