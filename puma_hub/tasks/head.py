"""The rating head: a small MLP from answer logits to a rating (paper, losses section)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

HIDDEN_SIZES = (32, 12)


class RatingHead(nn.Module):
    """MLP ``answers-32-12-1`` with ReLU on the answer logits.

    The logits are centred first: a shift common to all answers says nothing about the rating.
    """

    def __init__(self, answers: int = 5) -> None:
        super().__init__()
        self.answers = answers
        sizes = (answers, *HIDDEN_SIZES)
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Map float32 logits ``(B, answers)`` to ratings ``(B,)``."""
        return self.mlp(logits - logits.mean(-1, keepdim=True)).squeeze(-1)

    def rescale(self, level: float, slope: float = 1.0) -> None:
        """Make every prediction ``p`` into ``level + slope * p``."""
        last: Any = self.mlp[-1]
        with torch.no_grad():
            last.weight.mul_(slope)
            last.bias.mul_(slope).add_(level)

    def start_at(self, rating: float) -> RatingHead:
        """Let an untrained head predict ``rating``, the mean label, before its first step."""
        with torch.no_grad():
            self.mlp[-1].bias.fill_(rating)  # type: ignore[operator]
        return self
