"""Prompts given as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_hub.bank.arrays import as_float32
from puma_hub.errors import BankError


def as_array(prompts: Any) -> np.ndarray:
    """Prompts as a finite float32 array; see :func:`as_float32`.

    Raises:
        BankError: the prompts are not real numbers in rows of equal length, or some are not finite.
    """
    array = as_float32(prompts, "a prompt")
    if not np.isfinite(array).all():
        raise BankError("a prompt holds NaN or infinite values; leave it out or train it again")
    return array
