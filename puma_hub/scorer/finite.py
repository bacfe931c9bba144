"""Checking the LLM's outputs for NaN and infinity: dtypes of narrow range overflow on some texts and prompts."""

from __future__ import annotations

import torch

from puma_hub.errors import NotFiniteError

_REMEDY = {
    torch.float16: "load the LLM in bfloat16 or float32",
    torch.bfloat16: "load the LLM in float32, and check its weights and the prompts",
}
_ELSE = "check the LLM's weights and the prompts, they are damaged or far too large"


def rows_not_finite(values: torch.Tensor) -> torch.Tensor:
    """The number of rows of ``values (N, ...)`` with NaN or infinite numbers, and ``N``; int64 ``(2,)``."""
    finite = values.detach().isfinite().reshape(len(values), -1).all(1)
    return torch.stack([(~finite).sum(), torch.full_like(finite.sum(), len(values))])


def not_finite(what: str, dtype: torch.dtype) -> NotFiniteError:
    """The error that ``what`` is not finite, with a remedy for an LLM that computes in ``dtype``."""
    name = str(dtype).removeprefix("torch.")
    return NotFiniteError(f"{what} NaN or infinite with the LLM in {name}; {_REMEDY.get(dtype, _ELSE)}")


def require_finite(values: torch.Tensor, what: str, dtype: torch.dtype) -> None:
    """Check that ``values (N, ...)`` are finite. ``what`` names them in the message, ``dtype`` is the LLM's.

    Raises:
        NotFiniteError: some rows are not finite. The message has their number.
    """
    bad, rows = rows_not_finite(values).tolist()
    if bad:
        raise not_finite(f"the {what} of {bad} of {rows} rows are" if rows > 1 else f"the {what} are", dtype)
