"""Predicting a rating among given values."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.base import reject_labels
from puma_hub.tasks.head import RatingHead

_LARGEST = 1e9  # of the values of a rating
_DIGITS = 12  # of a value; what comes behind is noise, as in 0.1 + 0.2
_PAPER_RANGE = 4.0  # of ratings from 1 to 5
_NOISE = 1e-6  # of a label, relative: labels may have been float32


def _as_values(values: Any) -> tuple[float, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigurationError(f"rating values must be numbers, got {shown(values)}")
    found: list[float] = []
    for value in values:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
        if not is_number or not abs(value) <= _LARGEST:
            raise ConfigurationError(
                f"rating values must be numbers up to {_LARGEST:g} in size, got {shown(value)} among them"
            )
        rounded = int(value) if isinstance(value, numbers.Integral) else float(f"{float(value):.{_DIGITS}g}")
        found.append(int(rounded) if float(rounded).is_integer() else rounded)
    return tuple(found)


def _shown(values: Iterable[Any]) -> str:
    texts = [str(value) for value in values]
    return f"({', '.join(texts if len(texts) <= 12 else [*texts[:3], '...', texts[-1]])})"


@dataclass(frozen=True)
class RatingTask:
    """Predict a rating among ``values``; loss ``w * MSE(head) + (1 - w) * CE`` (paper, losses section).

    ``values`` are two or more rising numbers, such as ``(1, 2, 3, 4, 5)``, half stars or 0 to 100. They are kept as
    ints where they are whole, and else as floats of 12 digits. On a scale longer than the paper's 4 the squared error
    is measured in the paper's units, so that the two parts of the loss keep their weights.

    Raises:
        ConfigurationError: the values are not such numbers, or ``mse_weight`` is not between 0 and 1.
    """

    values: tuple[float, ...] = (1, 2, 3, 4, 5)
    mse_weight: float = 0.8
    name: ClassVar[str] = "rating"
    has_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        values = _as_values(self.values)
        if len(values) < 2 or any(first >= second for first, second in pairwise(values)):
            raise ConfigurationError(f"rating values must be two or more rising numbers, got {_shown(self.values)}")
        weight = self.mse_weight
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not 0.0 <= weight <= 1.0:
            raise ConfigurationError(f"mse_weight must lie in [0, 1], got {shown(weight)}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "mse_weight", float(weight))

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(str(value) if isinstance(value, int) else f"{value:.{_DIGITS}g}" for value in self.values)

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        """Refuse labels that are no values of the task; float32's noise is allowed.

        Raises:
            InteractionsError: there are some.
        """
        array, values = np.asarray(labels, dtype=np.float64), np.asarray(self.values, dtype=np.float64)
        upper = np.searchsorted(values, array).clip(1, len(values) - 1)
        distance = np.minimum(np.abs(array - values[upper - 1]), np.abs(array - values[upper]))
        allowed = min(_NOISE * float(np.abs(values).max()), float(np.diff(values).min()) / 4)
        remedy = "map the labels to these values, or give the task its own (RatingTask(values), --values)"
        reject_labels(array, ~(distance <= allowed), _shown(self.answers), remedy)

    def _nearest(self, labels: torch.Tensor) -> torch.Tensor:
        """The number of each label's value, ``(B,)``."""
        values = torch.tensor(self.values, dtype=torch.float64, device=labels.device)
        middles = (values[1:] + values[:-1]) / 2
        return torch.searchsorted(middles, labels.to(torch.float64).contiguous())

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
            cross_entropy = F.cross_entropy(logits, self._nearest(labels.to(logits.device)))
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

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self), "values": list(self.values)}
