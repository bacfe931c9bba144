"""The reference point of the prompts of one training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference point of the prompts of one training: a user's offset is the prompt minus the mean.

    Args:
        mean: float32 ``(l, d)``, the mean prompt.
        sensitivity: float32 ``(l, d)``, the gradient of the mean prediction with respect to the prompt, at the mean.
            None if it is not known; offsets are then not rescaled.
    """

    mean: np.ndarray
    sensitivity: np.ndarray | None = None
