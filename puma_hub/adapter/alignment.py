"""Correct the offsets of users of another training for the sensitivity at its base.

Two trainings end in different bases. An LLM is not equally sensitive at both: the same offset moves the mean prediction
farther at one base than at the other. So an offset is changed as little as possible, such that it moves the mean
prediction at the adapter's base as far as it did at its own.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def aligned(adapter: PumaAdapter, prompts: torch.Tensor, references: Sequence[Reference]) -> torch.Tensor:
    """Prompts ``(B, l, sum of source sizes)`` with their offsets corrected for the adapter's sensitivity.

    Let ``g`` be the sensitivity of a prompt's own training and ``a`` that of the adapter's source bank. An offset ``o``
    becomes ``o + a ((g - a) . o) / (a . a)``, the nearest offset with ``a . offset = g . o``. Prompts of the adapter's
    own source bank stay as they are, to the bit.
    """
    changes = torch.zeros_like(prompts)
    for number, reference in enumerate(references):
        ours, theirs, part = own_reference(adapter, number).sensitivity, reference.sensitivity, _part(adapter, number)
        if ours is None or theirs is None:
            continue
        direction = torch.from_numpy(ours / np.square(ours, dtype=np.float64).sum()).to(prompts)
        difference, mean = (torch.from_numpy(array.copy()).to(prompts) for array in (theirs - ours, reference.mean))
        lacking = ((prompts[..., part] - mean) * difference).double().sum((1, 2)).to(prompts)
        changes[..., part] = lacking[:, None, None] * direction
    return prompts + changes


def _part(adapter: PumaAdapter, number: int) -> slice:
    """The coordinates of source ``number``."""
    sizes = [spec.hidden_size for spec in adapter.config.sources]
    return slice(sum(sizes[:number]), sum(sizes[: number + 1]))
