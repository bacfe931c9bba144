"""Prompts given by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from puma_hub.errors import BankError


def as_array(prompts: Any) -> np.ndarray:
    """What holds numbers, as a float32 array.

    Raises:
        BankError: it does not hold numbers in rows of one length, or some are not finite.
    """
    if isinstance(prompts, torch.Tensor):
        prompts = prompts.detach().float().cpu().numpy()
    try:
        array = np.asarray(prompts, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BankError(
            f"a prompt must be an array of numbers (length, hidden size), got {type(prompts).__name__}"
        ) from error
    if not np.isfinite(array).all():
        raise BankError("a prompt holds NaN or infinite values; leave it out or train it again")
    return array
