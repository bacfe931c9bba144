"""Sequences of unequal length as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence


def padded(
    sequences: Sequence[Sequence[int]], side: Literal["left", "right"], device: torch.device, width: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, int64 ``(B, n)`` padded with 0 on one side, and their boolean mask.

    ``n`` is the length of the longest sequence, but at least ``width``.
    """
    ids = pad_sequence([torch.tensor(s, dtype=torch.long) for s in sequences], batch_first=True, padding_side=side)
    missing = max(0, width - ids.shape[1])
    ids = pad(ids, (missing, 0) if side == "left" else (0, missing)).to(device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    return ids, real_tokens(lengths, ids.shape[1], side)


def real_tokens(lengths: torch.Tensor, width: int, side: Literal["left", "right"]) -> torch.Tensor:
    """Boolean mask ``(B, width)`` of sequences with ``lengths (B,)``, padded on one side."""
    places = torch.arange(width, device=lengths.device)[None]
    return places >= width - lengths[:, None] if side == "left" else places < lengths[:, None]
