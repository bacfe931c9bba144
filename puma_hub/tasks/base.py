"""What a task is: the answers an LLM chooses from, the loss on their logits, and the prediction they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch

from puma_hub.errors import InteractionsError
from puma_hub.tasks.head import RatingHead


@runtime_checkable
class Task(Protocol):
    """The part of a task that scorer, trainers and evaluation rely on.

    Predictions follow from the linear predictor, which has no bounds, and ``link`` leads back to it, as in generalised
    linear models.
    """

    name: ClassVar[str]

    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def has_head(self) -> bool: ...
    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None: ...
    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor: ...
    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor: ...
    def link(self, predictions: torch.Tensor) -> torch.Tensor: ...
    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor: ...
    def to_dict(self) -> dict[str, Any]: ...


def reject_labels(labels: np.ndarray, bad: np.ndarray, allowed: str, remedy: str) -> None:
    if bad.any():
        values, counts = np.unique(labels[bad], return_counts=True)
        examples = ", ".join(
            f"{value} ({count} row{'s' * (count > 1)})" for value, count in zip(values[:5].tolist(), counts.tolist())
        )
        raise InteractionsError(
            f"{int(bad.sum())} of {len(labels)} labels are outside the task's values {allowed}: {examples}; {remedy}"
        )
