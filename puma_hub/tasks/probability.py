"""Tasks whose labels are 0 and 1, and whose predictions are probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.directions import AUC, USER_AUC, Metric
from puma_hub.tasks.base import Task, reject_labels
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.scores import auc, user_aucs

_CERTAIN = 1e-3  # no probability is taken to be nearer to 0 or 1


class ProbabilityTask(Task):
    """A task that predicts the probability of the label 1; binary cross entropy on its log-odds."""

    metrics: ClassVar[tuple[Metric, ...]] = (USER_AUC, AUC)

    @property
    def label_values(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        """Refuse labels other than 0 and 1.

        Raises:
            InteractionsError: there are some.
        """
        array = np.asarray(labels, dtype=np.float64)
        remedy = "map the labels to these values; with_likes (--likes-from) does so with ratings"
        reject_labels(array, ~np.isin(array, (0, 1)), "(0, 1)", remedy)

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over rows; ``labels (B,)`` are 0 and 1, or a teacher's predictions, which say it all."""
        return F.binary_cross_entropy_with_logits(self.linear_predictor(logits, head), labels.to(torch.float32))

    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of probabilities ``(B,)`` the log-odds, finite for labels too."""
        return predictions.logit(eps=_CERTAIN)

    def inverse_link(self, predictors: torch.Tensor) -> torch.Tensor:
        """Probabilities ``(B,)`` of log-odds ``(B,)``."""
        return predictors.sigmoid()

    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Probabilities ``(B,)``."""
        return self.inverse_link(self.linear_predictor(logits, head))

    def variance(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of labels with these probabilities ``(B,)``: ``p (1 - p)``."""
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
