"""What a task is: the answers an LLM chooses from, the loss on their logits, the prediction and its metrics."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from puma_hub.directions import Metric
from puma_hub.errors import ConfigurationError, InteractionsError, shown
from puma_hub.tasks.head import RatingHead

if TYPE_CHECKING:
    from typing_extensions import Self


class Task(ABC):
    """Base class of tasks: subclass it as a frozen dataclass and register it with :func:`puma_hub.register_task`.

    Scorer, trainers, evaluation, cards and command line ask a task for all of this, and never for its name.

    Two tasks are equal if prompts trained for the one can be used for the other. Fields that only say how it is
    trained, such as a weight in the loss, are declared with ``field(compare=False)``; they are stored all the same.

    Predictions follow from the linear predictor, which has no bounds, and ``link`` leads back to it, as in generalised
    linear models. They are on the scale of the labels.
    """

    name: ClassVar[str]
    """What it is registered and stored under."""
    title: ClassVar[str]
    """What cards call it, such as "rating prediction"."""
    template: ClassVar[str]
    """A scorer's default template: the name of a preset, or a text with the placeholder ``<user>``."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What :meth:`scores` returns, the main metric first."""
    has_head: ClassVar[bool] = False
    """Whether a rating head is trained, which turns answer logits into a rating."""

    @property
    def offset_column(self) -> str | None:
        """The column of a known part of each label, which the LLM's part is added to; None if there is none."""
        return None

    def offset_of(self, row: Mapping[str, Any] | None) -> float:
        """The known part of the label of a row; 0 if the task has none.

        Raises:
            InteractionsError: the row is missing, or has no number there.
        """
        name = self.offset_column
        if name is None:
            return 0.0
        value = None if row is None else row.get(name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise InteractionsError(
                f"the task adds {name!r} to its predictions, and the row has {value!r}; give a number"
            )
        return float(value)

    def with_offset(self, column: str) -> Self:
        """The task with that column as a known part of each label.

        Raises:
            ConfigurationError: the task adds nothing to its predictions.
        """
        raise ConfigurationError(f"the task {self.name} has no offset: it adds nothing to its predictions")

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """The texts that the LLM chooses from."""

    @property
    def label_values(self) -> tuple[float, ...] | None:
        """The values that labels can have, rising; None where the task does not say.

        The value nearest to a prediction is what would be decided; with the values 0 and 1 predictions are
        probabilities.
        """
        return None

    @abstractmethod
    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        """Refuse labels that the task cannot have.

        Raises:
            InteractionsError: there are some.
        """

    @abstractmethod
    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        head: RatingHead | None,
        probabilities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over rows; ``logits (B, answers)`` float32, ``labels (B,)``.

        With a teacher's ``probabilities (B, answers)``, ``labels`` are the teacher's predictions.
        """

    @abstractmethod
    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """What is nearly linear in the prompt, ``(B,)``."""

    @abstractmethod
    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        """The linear predictor ``(B,)`` of predictions ``(B,)``, finite for labels too."""

    def inverse_link(self, predictors: torch.Tensor) -> torch.Tensor:
        """Predictions ``(B,)`` of linear predictors ``(B,)``; by default they are the same."""
        return predictors

    @abstractmethod
    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        """Predictions ``(B,)``."""

    def variance(self, predictions: torch.Tensor) -> torch.Tensor:
        """How much labels scatter around ``predictions (B,)``, up to a factor: the variance function of a GLM.

        The same everywhere by default.
        """
        return torch.ones_like(predictions)

    @abstractmethod
    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        """The value of each of ``metrics`` for predictions and labels ``(N,)``; None where it is not defined."""

    def counts(self, labels: np.ndarray, users: Sequence[str]) -> dict[str, int]:
        """How many rows or users a metric is about, where these are not all."""
        return {}

    @classmethod
    def from_values(cls, values: tuple[float, ...] | None) -> Self:
        """The task as the command line makes it, with the numbers of ``--values`` if there are some.

        Raises:
            ConfigurationError: the task takes no values.
        """
        if values is not None:
            raise ConfigurationError(f"the task {cls.name} takes no values; leave --values out")
        return cls()

    def main_metric(self, scores: Mapping[str, float | None]) -> Metric:
        """The metric by which two ways of predicting the same rows are compared: the first that is defined."""
        return next((metric for metric in self.metrics if scores[metric.name] is not None), self.metrics[0])

    def undefined(self, scores: Mapping[str, float | None]) -> list[str]:
        """Why metrics are None, a sentence each."""
        absent = [metric for metric in self.metrics if scores[metric.name] is None]
        return [f"{metric.name} is not defined: {metric.undefined}" for metric in absent]

    def described(self, answer_texts: Sequence[str] | None = None) -> str:
        """Name and answers for a reader, each answer with its spelling where that is another."""
        spelled = [text.strip() for text in answer_texts or self.answers]
        answers = [f"{answer} as {text}" if text != answer else answer for answer, text in zip(self.answers, spelled)]
        return f"{self.name}: {', '.join(answers)}"

    def to_dict(self) -> dict[str, Any]:
        """The task as plain data, all of its fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"name": self.name, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_dict`; unknown keys are left out.

        Raises:
            ConfigurationError: a field is missing or has a value that cannot be used.
        """
        known = {field.name for field in fields(cls) if field.init}  # type: ignore[arg-type]
        try:
            return cls(**{key: value for key, value in data.items() if key in known})
        except TypeError as error:
            raise ConfigurationError(f"the task {cls.name} cannot be made of {shown(dict(data))}: {error}") from error


def reject_labels(labels: np.ndarray, bad: np.ndarray, allowed: str, remedy: str) -> None:
    """Refuse the labels marked in ``bad (N,)``; ``allowed`` says what they may be.

    Raises:
        InteractionsError: there are some.
    """
    if bad.any():
        values, counts = np.unique(labels[bad], return_counts=True)
        examples = ", ".join(
            f"{value} ({count} row{'s' * (count > 1)})" for value, count in zip(values[:5].tolist(), counts.tolist())
        )
        raise InteractionsError(
            f"{int(bad.sum())} of {len(labels)} labels are outside the task's values {allowed}: {examples}; {remedy}"
        )
