"""Converting a caller's numbers to float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from puma_hub.errors import BankError

_NO_NUMBERS = {"O": "objects", "U": "text", "S": "bytes"}
_REAL_KINDS = "fiu"
_REAL_NAMES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
"""Real dtypes of ml_dtypes. NumPy's ``kind`` does not tell that they are floats."""


def as_float32(values: Any, what: str = "prompts") -> np.ndarray:
    """Convert real numbers to a float32 array. An array that is float32 already is not copied.

    Takes arrays, tensors of any dtype and device, with or without gradient, and lists of these.

    Raises:
        BankError: the values are not real numbers in rows of equal length, entries are masked, or a finite number is
            too large for float32.
    """
    if np.ma.is_masked(values):
        raise BankError(f"{what} must not have masked entries; fill them first")
    array = _as_array(values, what)
    if array.dtype.kind in _NO_NUMBERS:
        of = f" of {_NO_NUMBERS[array.dtype.kind]}" if array.ndim else ""
        raise BankError(f"{what} must be an array of numbers, got {type(values).__name__}{of}")
    if array.dtype.kind not in _REAL_KINDS and array.dtype.name not in _REAL_NAMES:
        raise BankError(f"{what} must be real numbers, got {array.dtype}; convert them first")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(np.float32, copy=False)
        if array.dtype.itemsize > 4 and (np.isinf(result) & np.isfinite(array)).any():
            raise BankError(
                f"{what} must fit into float32, got numbers up to {np.nanmax(np.abs(array)):.3g}; scale them first"
            )
    return result


def _as_array(values: Any, what: str) -> np.ndarray:
    try:
        if isinstance(values, torch.Tensor):
            return _of_tensor(values)
        if isinstance(values, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in values):
            return np.stack([_of_tensor(part) if isinstance(part, torch.Tensor) else part for part in values])
        array = np.asarray(values)
        # A pandas column of arrays is an array of objects.
        return np.stack(list(array)) if array.dtype == object and array.ndim == 1 and len(array) else array
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BankError(
            f"{what} must be an array of numbers with rows of equal length, got {type(values).__name__}"
        ) from error


def _of_tensor(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_complex() or tensor.dtype in (torch.float64, torch.bool) or not tensor.is_floating_point():
        return np.asarray(tensor.cpu().resolve_conj().numpy())
    return np.asarray(tensor.float().cpu().numpy())
