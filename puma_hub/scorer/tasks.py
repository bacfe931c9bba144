"""What the LLM is asked: the answers, the loss on their logits and the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.errors import ConfigurationError, InteractionsError, shown
from puma_hub.scorer.head import RatingHead

_LARGEST = 1e9  # of the values of a rating
_CERTAIN = 1e-3  # no probability is taken to be nearer to 0 or 1


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


def _reject(labels: np.ndarray, bad: np.ndarray, allowed: str) -> None:
    if bad.any():
        values, counts = np.unique(labels[bad], return_counts=True)
        examples = ", ".join(
            f"{value} ({count} row{'s' * (count > 1)})" for value, count in zip(values[:5].tolist(), counts.tolist())
        )
        raise InteractionsError(
            f"{int(bad.sum())} of {len(labels)} labels are outside the task's values {allowed}: {examples}; "
            "map the labels to these values or give the task its own"
        )


@dataclass(frozen=True)
class RatingTask:
    """Predict a rating among ``values``; loss ``w * MSE(head) + (1 - w) * CE`` (paper, losses section)."""

    values: tuple[float, ...] = (1, 2, 3, 4, 5)
    mse_weight: float = 0.8
    name: ClassVar[str] = "rating"
    has_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        numbers = (*self.values, self.mse_weight) if isinstance(self.values, Iterable) else (None,)
        if not all(isinstance(n, Real) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in numbers):
            raise ConfigurationError(
                f"rating values and mse_weight must be numbers, got {shown(self.values)} and {shown(self.mse_weight)}"
            )
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) < 2 or list(self.values) != sorted(set(self.values)):
            raise ConfigurationError(f"rating values must be two or more rising numbers, got {self.values}")
        if not 0.0 <= self.mse_weight <= 1.0:
            raise ConfigurationError(f"mse_weight must lie in [0, 1], got {self.mse_weight}")

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(f"{value:g}" for value in self.values)

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        array = np.asarray(labels, dtype=np.float64)
        _reject(array, ~np.isin(array, self.values), str(self.values))

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
            values = torch.tensor(self.values, dtype=torch.float32, device=logits.device)
            cross_entropy = F.cross_entropy(logits, torch.searchsorted(values, labels.to(torch.float32)))
        else:
            cross_entropy = F.cross_entropy(logits, probabilities.to(logits.device))
        if head is None:
            return cross_entropy
        squared = F.mse_loss(head(logits), labels.to(torch.float32))
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

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self), "values": list(self.values)}


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
        _reject(array, ~np.isin(array, (0, 1)), "(0, 1)")

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


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """Rebuild a task from :meth:`Task.to_dict`."""
    known = ("values", "mse_weight")
    name = data.get("name")
    if name == RatingTask.name:
        return RatingTask(**{key: value for key, value in data.items() if key in known})
    if name == ClickTask.name:
        return ClickTask()
    raise ConfigurationError(f"unknown task {shown(name)}; tasks are {RatingTask.name!r} and {ClickTask.name!r}")


def as_task(task: object) -> Task:
    """A task, or one rebuilt from its :meth:`Task.to_dict`.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(task, Mapping):
        return task_from_dict(task)
    if isinstance(task, Task):
        return task
    raise ConfigurationError(f"a task is a Task or its dict, got {shown(task)}")
