"""Predicting a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.tasks.base import reject_labels
from puma_hub.tasks.head import RatingHead

_CERTAIN = 1e-3  # no probability is taken to be nearer to 0 or 1


@dataclass(frozen=True)
class ClickTask:
    """Predict a click; binary cross entropy on the logit of "Yes" (paper, losses section)."""

    name: ClassVar[str] = "click"
    has_head: ClassVar[bool] = False

    @property
    def answers(self) -> tuple[str, ...]:
        return ("Yes", "No")

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        array = np.asarray(labels, dtype=np.float64)
        reject_labels(array, ~np.isin(array, (0, 1)), "(0, 1)", "map the labels to these values")

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over rows; ``labels (B,)`` are clicks, or a teacher's predictions, which say it all."""
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(torch.float32))

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Log-odds of a click ``(B,)``: the logit of "Yes"."""
        return logits[:, 0]

    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of click probabilities ``(B,)`` the log-odds, finite for clicks themselves too."""
        return predictions.logit(eps=_CERTAIN)

    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Click probabilities ``(B,)``."""
        return self.linear_predictor(logits, head).sigmoid()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}
