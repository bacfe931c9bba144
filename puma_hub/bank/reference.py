"""What the prompts of one training are counted from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reference:
    """Where the prompts of one training are counted from.

    Args:
        mean: float32 ``(l, d)``, the mean prompt.
        sensitivity: float32 ``(l, d)``, the gradient of the mean prediction by the prompt, there; None where it is not
            known, and prompts are then taken as they are.
    """

    mean: np.ndarray
    sensitivity: np.ndarray | None = None
