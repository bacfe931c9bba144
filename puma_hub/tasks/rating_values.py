"""Tasks whose answers are rising numbers."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.base import Task, reject_labels

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST = 1e9  # of the values
_DIGITS = 12  # of a value; what comes behind is noise, as in 0.1 + 0.2
_NOISE = 1e-6  # of a label, relative: labels may have been float32


@dataclass(frozen=True)
class ValuesTask(Task):
    """A task that asks for one of ``values``, two or more rising numbers such as ``(1, 2, 3, 4, 5)`` or half stars.

    They are kept as ints where they are whole, and else as floats of 12 digits.

    Raises:
        ConfigurationError: the values are not such numbers.
    """

    values: tuple[float, ...] = (1, 2, 3, 4, 5)
    template: ClassVar[str] = "rating"

    def __post_init__(self) -> None:
        values = _as_values(self.values)
        if len(values) < 2 or any(first >= second for first, second in pairwise(values)):
            raise ConfigurationError(f"rating values must be two or more rising numbers, got {_shown(self.values)}")
        object.__setattr__(self, "values", values)

    @classmethod
    def from_values(cls, values: tuple[float, ...] | None) -> Self:
        """The task with these values, or the usual ones."""
        return cls() if values is None else cls(values)

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(str(value) if isinstance(value, int) else f"{value:.{_DIGITS}g}" for value in self.values)

    @property
    def label_values(self) -> tuple[float, ...]:
        return self.values

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        """Refuse labels that are no values of the task; float32's noise is allowed.

        Raises:
            InteractionsError: there are some.
        """
        array, values = np.asarray(labels, dtype=np.float64), np.asarray(self.values, dtype=np.float64)
        upper = np.searchsorted(values, array).clip(1, len(values) - 1)
        distance = np.minimum(np.abs(array - values[upper - 1]), np.abs(array - values[upper]))
        allowed = min(_NOISE * float(np.abs(values).max()), float(np.diff(values).min()) / 4)
        own = f"{type(self).__name__}(values), --values"
        remedy = f"map the labels to these values, or give the task its own ({own})"
        reject_labels(array, ~(distance <= allowed), _shown(self.answers), remedy)

    def nearest(self, ratings: torch.Tensor) -> torch.Tensor:
        """The number of the value nearest to each rating, int64 ``(B,)``."""
        values = torch.tensor(self.values, dtype=torch.float64, device=ratings.device)
        middles = (values[1:] + values[:-1]) / 2
        return torch.searchsorted(middles, ratings.to(torch.float64).contiguous())


def log_odds_of_expected(values: Sequence[float], logits: torch.Tensor) -> torch.Tensor:
    """Log-odds ``(B,)`` of where the expected value lies between the lowest and the highest; ``logits (B, K)``."""
    scale = torch.tensor(values, dtype=torch.float32, device=logits.device)
    above, below = (scale - scale[0]).log(), (scale[-1] - scale).log()
    return (logits + above).logsumexp(-1) - (logits + below).logsumexp(-1)


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
