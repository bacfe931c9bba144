"""Ordinal regression on the answer logits: a rating whose distances are not given, only its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.directions import MAE, QUADRATIC_KAPPA, RMSE, Metric
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.rating_values import ValuesTask, log_odds_of_expected
from puma_hub.tasks.registry import register_task
from puma_hub.tasks.scores import mae, quadratic_kappa, rmse


@register_task
@dataclass(frozen=True)
class OrdinalTask(ValuesTask):
    """Predict a rating among ``values`` by whether it reaches each of them; no head.

    ``P(y >= values[k])`` is the tail sum of the softmax over the answers. The loss is the binary cross entropy of these
    probabilities, the mean over rows and the ``K - 1`` thresholds. An answer costs the more, the more thresholds lie
    between it and the label.

    One binary question a threshold is the method of Frank and Hall (2001, "A simple approach to ordinal
    classification"); Cheng, Wang and Pollastri (2008, "A neural network approach to ordinal regression") ask all of
    them of one network. Theirs may contradict one another; tail sums of one distribution cannot.

    Raises:
        ConfigurationError: the values are not two or more rising numbers.
    """

    name: ClassVar[str] = "ordinal"
    title: ClassVar[str] = "ordinal regression"
    metrics: ClassVar[tuple[Metric, ...]] = (MAE, RMSE, QUADRATIC_KAPPA)

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over rows and thresholds; ``logits (B, K)`` float32, ``labels (B,)`` ratings.

        A teacher's ``probabilities (B, K)`` say it all: its tail sums are the targets, and ``labels`` are not used.
        """
        if probabilities is None:
            probabilities = F.one_hot(self.nearest(labels.to(logits.device)), len(self.values))
        reached = _tails(probabilities.to(logits.device, torch.float32))
        answers = torch.arange(len(self.values), device=logits.device)
        at_least = answers >= answers[1:, None]  # (K - 1, K)
        logs = logits.log_softmax(-1)[:, None, :]
        yes = logs.masked_fill(~at_least, -torch.inf).logsumexp(-1)
        no = logs.masked_fill(at_least, -torch.inf).logsumexp(-1)
        return -(reached * yes + (1.0 - reached) * no).mean()

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Log-odds ``(B,)`` of where the expected value lies between the lowest and the highest."""
        return log_odds_of_expected(self.values, logits)

    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        """Of expected values ``(B,)`` the log-odds; the ends of the scale are taken a quarter of a step inwards."""
        (lowest, second), (last, highest) = self.values[:2], self.values[-2:]
        inside = predictions.clamp(lowest + (second - lowest) / 4, highest - (highest - last) / 4)
        return ((inside - lowest) / (highest - lowest)).logit()

    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Expected values ``(B,)``."""
        return self.inverse_link(self.linear_predictor(logits, head))

    def inverse_link(self, predictors: torch.Tensor) -> torch.Tensor:
        """Expected values ``(B,)`` of log-odds ``(B,)``."""
        lowest, highest = self.values[0], self.values[-1]
        return lowest + (highest - lowest) * predictors.sigmoid()

    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        """MAE, RMSE, and the quadratic weighted kappa of the nearest values."""
        predicted, actual = (self.nearest(torch.tensor(array)).numpy() for array in (predictions, labels))
        return {
            "mae": mae(predictions, labels),
            "rmse": rmse(predictions, labels),
            "quadratic_kappa": quadratic_kappa(predicted, actual, len(self.values)),
        }


def _tails(probabilities: torch.Tensor) -> torch.Tensor:
    """Of probabilities ``(B, K)`` those of reaching the second answer, the third, ...: ``(B, K - 1)``."""
    return probabilities.flip(-1).cumsum(-1).flip(-1)[:, 1:].clamp(max=1.0)
