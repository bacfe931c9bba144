"""Predicting whether a user likes an item, from the ratings that the LLM would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.probability import ProbabilityTask
from puma_hub.tasks.rating_values import ValuesTask, log_odds_of_expected
from puma_hub.tasks.registry import register_task


@register_task
@dataclass(frozen=True)
class LikeTask(ProbabilityTask, ValuesTask):
    """Predict a click, label 1, where the LLM answers with a rating among ``values``.

    A head turns the logits of these answers into the log-odds of a click. The paper's clicks come from the logit of
    "Yes" alone (:class:`ClickTask`).

    Raises:
        ConfigurationError: the values are not two or more rising numbers.
    """

    name: ClassVar[str] = "like"
    title: ClassVar[str] = "prediction of likes"
    has_head: ClassVar[bool] = True

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Log-odds of a click ``(B,)``: the head's output, or those of the expected rating where there is no head."""
        return head(logits) if head is not None else log_odds_of_expected(self.values, logits)
