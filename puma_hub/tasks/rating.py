"""Predicting a rating among given values."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.directions import MAE, RMSE, Metric
from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.rating_values import ValuesTask
from puma_hub.tasks.registry import register_task
from puma_hub.tasks.scores import mae, rmse

_PAPER_RANGE = 4.0  # of ratings from 1 to 5


@register_task
@dataclass(frozen=True)
class RatingTask(ValuesTask):
    """Predict a rating among ``values``; loss ``w * MSE(head) + (1 - w) * CE`` (paper, losses section).

    ``values`` are two or more rising numbers, such as ``(1, 2, 3, 4, 5)``, half stars or 0 to 100. They are kept as
    ints where they are whole, and else as floats of 12 digits. On a scale longer than the paper's 4 the squared error
    is measured in the paper's units, so that the two parts of the loss keep their weights. ``mse_weight`` says how
    prompts are trained, not what for: tasks that differ in it alone are equal.

    ``offset`` names a column of the interactions, a known part of each rating around 0, such as the ``bias`` of
    :func:`puma_hub.data.with_biases`. Prompts then learn what it leaves over, and it is added to every prediction.

    Raises:
        ConfigurationError: the values are not such numbers, ``mse_weight`` is not between 0 and 1, or ``offset`` is no
            name.
    """

    mse_weight: float = field(default=0.8, compare=False)
    offset: str | None = None
    name: ClassVar[str] = "rating"
    title: ClassVar[str] = "rating prediction"
    metrics: ClassVar[tuple[Metric, ...]] = (RMSE, MAE)
    has_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.mse_weight
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not 0.0 <= weight <= 1.0:
            raise ConfigurationError(f"mse_weight must lie in [0, 1], got {shown(weight)}")
        object.__setattr__(self, "mse_weight", float(weight))
        if self.offset is not None and (not isinstance(self.offset, str) or not self.offset):
            raise ConfigurationError(f"offset must be the name of a column, got {shown(self.offset)}")

    @property
    def offset_column(self) -> str | None:
        return self.offset

    def with_offset(self, column: str) -> RatingTask:
        """See :class:`Task`."""
        return replace(self, offset=column)

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over rows; ``logits (B, answers)`` float32, ``labels (B,)`` ratings.

        With a teacher's ``probabilities (B, answers)`` the ratings are its predictions and may lie between values.
        """
        if probabilities is None:
            cross_entropy = F.cross_entropy(logits, self.nearest(labels.to(logits.device)))
        else:
            cross_entropy = F.cross_entropy(logits, probabilities.to(logits.device))
        if head is None:
            return cross_entropy
        unit = max(1.0, (self.values[-1] - self.values[0]) / _PAPER_RANGE)
        squared = F.mse_loss(head(logits), labels.to(torch.float32)) / unit**2
        return self.mse_weight * squared + (1.0 - self.mse_weight) * cross_entropy

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Ratings ``(B,)``: the head's output, or the expected rating where there is no head."""
        if head is not None:
            return head(logits)
        values = torch.tensor(self.values, dtype=torch.float32, device=logits.device)
        return logits.softmax(-1) @ values

    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of predictions ``(B,)`` the linear predictor: ratings are their own."""
        return predictions

    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Ratings ``(B,)``."""
        return self.linear_predictor(logits, head)

    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        """RMSE and MAE."""
        return {"rmse": rmse(predictions, labels), "mae": mae(predictions, labels)}
