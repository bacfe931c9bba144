"""Predicting a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.directions import AUC, USER_AUC, Metric
from puma_hub.tasks.base import Task, reject_labels
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.registry import register_task
from puma_hub.tasks.scores import auc, user_aucs

_CERTAIN = 1e-3  # no probability is taken to be nearer to 0 or 1


@register_task
@dataclass(frozen=True)
class ClickTask(Task):
    """Predict a click; binary cross entropy on the logit of "Yes" (paper, losses section)."""

    name: ClassVar[str] = "click"
    title: ClassVar[str] = "click prediction"
    template: ClassVar[str] = "click"
    metrics: ClassVar[tuple[Metric, ...]] = (USER_AUC, AUC)

    @property
    def answers(self) -> tuple[str, ...]:
        return ("Yes", "No")

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        """Refuse labels other than 0 and 1.

        Raises:
            InteractionsError: there are some.
        """
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

    def variance(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of clicks with these probabilities ``(B,)``: ``p (1 - p)``."""
        inside = predictions.clamp(_CERTAIN, 1.0 - _CERTAIN)
        return inside * (1.0 - inside)

    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        """User AUC and AUC; None where rows of one class are missing for it."""
        by_user = user_aucs(predictions, labels, users)
        return {
            "user_auc": float(np.mean(by_user)) if by_user else None,
            "auc": auc(predictions, labels) if len(np.unique(labels)) == 2 else None,
        }

    def counts(self, labels: np.ndarray, users: Sequence[str]) -> dict[str, int]:
        """Users whose rows are of both classes, whom the user AUC is about."""
        classes: dict[str, set[float]] = {}
        for user, label in zip(users, labels.tolist()):
            classes.setdefault(user, set()).add(label)
        return {"users_with_both_classes": sum(len(found) > 1 for found in classes.values())}
