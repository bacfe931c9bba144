"""The three maps from source prompts to target prompts; each acts on every soft token separately."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SeedNetwork(nn.Module):
    """``Linear - LayerNorm - GELU - Linear`` plus a linear residual projection.

    The last layer of the non-linear branch starts at zero, so the map is linear before training.
    """

    def __init__(self, source_size: int, target_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.adapter = nn.Sequential(
            nn.Linear(source_size, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, target_size),
        )
        self.residual = nn.Linear(source_size, target_size)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() and self.is_linear:
            return self.residual(prompts)
        return self.adapter(prompts) + self.residual(prompts)

    @property
    def is_linear(self) -> bool:
        """Whether the non-linear branch gives 0, as in adapters that were solved for and not trained further."""
        last: Any = self.adapter[-1]
        return not (last.bias.any() or last.weight.any())

    def start_linear(self) -> None:
        nn.init.zeros_(self.adapter[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.adapter[-1].bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)


class LinearNetwork(nn.Module):
    """One linear projection."""

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.residual = nn.Linear(source_size, target_size)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        return self.residual(prompts)

    def start_linear(self) -> None:
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)


def _feed_forward(size_in: int, hidden_size: int, size_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(size_in),
        nn.Linear(size_in, hidden_size),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, size_out),
    )


class PaperStage(nn.Module):
    """A feed-forward block with an identity residual, then one that changes the size."""

    def __init__(self, size_in: int, size_out: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.refine = _feed_forward(size_in, hidden_size, size_in, dropout)
        self.project = _feed_forward(size_in, hidden_size, size_out, dropout)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        return self.project(prompts + self.refine(prompts))


class PaperNetwork(nn.Sequential):
    """Two stages, source size to target size and target size to target size (paper, adapter section)."""

    def __init__(self, source_size: int, target_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__(
            PaperStage(source_size, target_size, hidden_size, dropout),
            PaperStage(target_size, target_size, hidden_size, dropout),
        )

    def start_linear(self) -> None:
        """Start at a small output; this architecture has no linear branch."""
        stage: Any = self[1]
        last: Any = stage.project[-1]
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)


def build_network(architecture: str, source_size: int, target_size: int, hidden_size: int, dropout: float) -> nn.Module:
    """Return the network of a checked configuration."""
    if architecture == "linear":
        return LinearNetwork(source_size, target_size)
    kind = {"seed": SeedNetwork, "paper": PaperNetwork}[architecture]
    return kind(source_size, target_size, hidden_size, dropout)
