"""Statistics of the prompts of one training: their mean, and the spread of users around it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from puma_hub.bank.reference import Reference
from puma_hub.errors import BankError, first_line, shown
from puma_hub.limits import MAX_HIDDEN_SIZE, MAX_PROMPT_LENGTH, MAX_USERS, require_number, require_whole

LEAST_USERS = 30
"""With fewer users, the mean of their prompts is a poor estimate of the base: the users' own offsets bias it."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class BankStatistics:
    """Mean and spread of all prompts of a training. A bank may hold only some of these prompts.

    The means of separate trainings differ far more than the users of one training do. So a user is described by the
    offset, the prompt minus the mean of its training.

    Args:
        mean: float32 ``(l, d)``, the mean prompt, which all users share (a trained base plus the mean of the offsets).
        spread: root mean square of the coordinates of prompt minus mean, over all users.
        users: the number of users.
        is_base: the mean is the trained base itself, which does not depend on the choice of users.
        sensitivity: float32 ``(l, d)``, the gradient of the mean prediction with respect to the prompt, at the mean,
            over rows of the training; None if it is not known.

    Raises:
        BankError: a value is not finite, or out of range.
    """

    mean: np.ndarray
    spread: float
    users: int
    is_base: bool = False
    sensitivity: np.ndarray | None = None

    def __post_init__(self) -> None:
        mean = _frozen(self.mean)
        object.__setattr__(self, "mean", mean)
        if mean.ndim != 2 or not mean.size or not np.isfinite(mean).all():
            raise BankError(
                f"a bank's mean prompt must be finite and have shape (length, hidden size), got {mean.shape}; make the "
                "bank again"
            )
        if self.sensitivity is not None:
            sensitivity = _frozen(self.sensitivity)
            object.__setattr__(self, "sensitivity", sensitivity)
            if sensitivity.shape != mean.shape or not np.isfinite(sensitivity).all():
                raise BankError(
                    f"a bank's sensitivity must be finite and have the mean's shape {mean.shape}, got "
                    f"{sensitivity.shape}; make the bank again"
                )
        if not math.isfinite(self.spread) or self.spread < 0 or self.users < 1:
            raise BankError(
                f"statistics of a bank need a finite spread and at least 1 user, got {shown(self.spread)} and "
                f"{shown(self.users)}; make the bank again"
            )

    @classmethod
    def of_prompts(cls, prompts: np.ndarray) -> BankStatistics | None:
        """The statistics of prompts ``(N, l, d)``; None for fewer than two prompts."""
        return cls.of_batches(lambda: (prompts,))

    @classmethod
    def of_batches(cls, batches: Callable[[], Iterable[np.ndarray]]) -> BankStatistics | None:
        """As :meth:`of_prompts`, for prompts in batches ``(n, l, d)``; equal to the bit.

        Args:
            batches: called twice; returns an iterator over all batches each time.
        """
        users, total = 0, None
        for part in _parts(batches()):
            # Add row by row, so that the result does not depend on the sizes of the batches.
            before = np.zeros((1, *part.shape[1:])) if total is None else total[None]
            total = np.concatenate([before, part]).sum(axis=0)
            users += len(part)
        if total is None or users < 2:
            return None
        mean = (total / users).astype(np.float32)
        return cls(mean, _spread(batches(), mean), users)

    @classmethod
    def of_training(cls, prompts: np.ndarray, base: np.ndarray | None) -> BankStatistics | None:
        """The statistics of a training with prompts ``(N, l, d)`` and, for the shared method, base ``(l, d)``.

        With many users the mean of the prompts is used: up to noise it is the base. With few users the base is used.
        """
        if base is None or len(prompts) >= LEAST_USERS:
            return cls.of_prompts(prompts)
        return cls(base, _spread((prompts,), base), len(prompts), is_base=True)

    @property
    def is_reliable(self) -> bool:
        """Whether no single user has a noticeable influence on the mean."""
        return self.is_base or self.users >= LEAST_USERS

    @classmethod
    def alone(cls, prompts: np.ndarray) -> BankStatistics:
        """As :meth:`of_prompts`; but a single prompt is its own mean, with spread 0."""
        return cls.of_prompts(prompts) or cls(prompts[0], 0.0, 1)

    @property
    def reference(self) -> Reference:
        """The reference point of the prompts of this training."""
        return Reference(self.mean, self.sensitivity)

    @cached_property
    def base_id(self) -> str:
        """An identifier of the training: a hash of the mean prompt, 16 hexadecimal digits."""
        return hashlib.sha256(self.mean.astype("<f4").tobytes()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BankStatistics):
            return NotImplemented
        ours, theirs = (self.base_id, self.spread, self.users), (other.base_id, other.spread, other.users)
        return ours == theirs and self.mean.shape == other.mean.shape

    def __hash__(self) -> int:
        return hash((self.base_id, self.spread, self.users))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON. Arrays are base64 of little-endian float32, so that no bit is lost."""
        return {
            "base_id": self.base_id,
            "mean": _encoded(self.mean),
            "sensitivity": None if self.sensitivity is None else _encoded(self.sensitivity),
            "shape": list(self.mean.shape),
            "spread": self.spread,
            "users": self.users,
            "is_base": self.is_base,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BankStatistics:
        """Rebuild from the output of :meth:`to_dict`.

        Raises:
            BankError: a part is missing or malformed.
        """
        try:
            length, size = data["shape"]
            require_whole(length, "the prompt length", MAX_PROMPT_LENGTH)
            require_whole(size, "the hidden size", MAX_HIDDEN_SIZE)
            mean = _decoded(data["mean"], length, size)
            known = data.get("sensitivity")
            sensitivity = None if known is None else _decoded(known, length, size)
            spread, users = require_number(data["spread"], "spread"), require_whole(data["users"], "users", MAX_USERS)
            return cls(mean, spread, users, data.get("is_base") is True, sensitivity)
        except BankError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, binascii.Error) as error:
            raise BankError(
                f"the statistics in a bank's provenance are malformed ({type(error).__name__}: {first_line(error)}); "
                "restore the file or make the bank again"
            ) from error


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, dtype=np.float32)
    copy.setflags(write=False)
    return copy


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _decoded(text: str, length: int, size: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(length, size)


def _parts(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            yield batch[start : start + _ROWS_AT_ONCE]


def _spread(batches: Iterable[np.ndarray], mean: np.ndarray) -> float:
    rows = [np.square(part - mean, dtype=np.float64).reshape(len(part), -1).sum(axis=1) for part in _parts(batches)]
    squares = np.concatenate(rows)
    return math.sqrt(math.fsum(squares) / (len(squares) * mean.size))
