"""Predicting a click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.probability import ProbabilityTask
from puma_hub.tasks.registry import register_task


@register_task
@dataclass(frozen=True)
class ClickTask(ProbabilityTask):
    """Predict a click; binary cross entropy on the logit of "Yes" (paper, losses section)."""

    name: ClassVar[str] = "click"
    title: ClassVar[str] = "click prediction"
    template: ClassVar[str] = "click"

    @property
    def answers(self) -> tuple[str, ...]:
        return ("Yes", "No")

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Log-odds of a click ``(B,)``: the logit of "Yes"."""
        return logits[:, 0]
