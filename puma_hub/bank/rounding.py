"""Prompts of fewer bits: rounded values that take less space in files. Every reader still gets float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from puma_hub.bank.statistics import BankStatistics
from puma_hub.errors import BankError, ConfigurationError, shown

WHOLE = "float32"
ROUNDED = "rounded"
"""A key of a provenance's details: how the bank's prompts were rounded."""
_VALUES = "prompt.list.element"
_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_INT8 = "int8"
DTYPES = (WHOLE, *_FLOATS, _INT8)
_SPLIT = {
    # Bytes of equal significance side by side: those that rounding has cleared take no space.
    "use_byte_stream_split": [_VALUES],
    "compression": "zstd",
    "compression_level": 1,
}
_DICTIONARY = {
    # 255 values, and a byte for each coordinate.
    "use_dictionary": [_VALUES],
    "compression": "zstd",
    "compression_level": 1,
}
_LARGEST = float(np.finfo(np.float32).max)
_STEPS = 127  # on each side of 0
_ROOM = 1.25  # for prompts that are larger than those looked at


@dataclass(frozen=True)
class Rounding:
    """How prompts are rounded.

    Args:
        dtype: ``float16``, ``bfloat16`` or ``int8``.
        step: between neighbouring values, of ``int8``; one for the bank. Values beyond 127 steps are cut there.
        error: root mean square of what rounding changes, as a share of the prompts' spread around their mean; of some
            prompts of the bank. None if it is not known.

    Raises:
        ConfigurationError: there is no such dtype, or the step is not a positive number.
    """

    dtype: str
    step: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        require_dtype(self.dtype)
        if self.dtype == WHOLE:
            raise ConfigurationError(f"{WHOLE} rounds nothing; leave the rounding out")
        valid = isinstance(self.step, (int, float)) and not isinstance(self.step, bool) and 0 < self.step <= _LARGEST
        if (self.step is not None or self.dtype == _INT8) and not valid:
            raise ConfigurationError(f"the step of int8 prompts must be a positive number, got {shown(self.step)}")

    @classmethod
    def fitted(cls, dtype: str, prompts: np.ndarray) -> Rounding | None:
        """The rounding for a bank, by some of its prompts ``(n, l, d)``; None for float32.

        Raises:
            ConfigurationError: there is no such dtype.
        """
        require_dtype(dtype)
        if dtype == WHOLE:
            return None
        found = cls(dtype, _step(prompts) if dtype == _INT8 else None)
        spread = BankStatistics.alone(prompts).spread
        lost = float(np.sqrt(np.mean(np.square(found.rounded(prompts) - prompts, dtype=np.float64))))
        return cls(dtype, found.step, float(f"{lost / spread:.2g}") if spread else None)

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Rounding | None:
        """How a bank with these details was rounded; None if it was not, or by a later version of puma_hub."""
        known = details.get(ROUNDED)
        if not isinstance(known, Mapping):
            return None
        try:
            error = known.get("error")
            return cls(known.get("dtype", ""), known.get("step"), error if isinstance(error, float) else None)
        except ConfigurationError:
            return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rounded(self, prompts: np.ndarray) -> np.ndarray:
        """Prompts float32 ``(n, l, d)``, each value the nearest one that is kept.

        Raises:
            BankError: a value is too large for float16.
        """
        if self.step is not None:
            step = np.float32(self.step)
            return np.clip(np.rint(prompts / step), -_STEPS, _STEPS) * step
        values = torch.from_numpy(np.array(prompts, np.float32)).to(_FLOATS[self.dtype]).float().numpy()
        if not np.isfinite(values).all():
            raise BankError(
                f"prompts of up to {np.abs(prompts).max():.3g} are too large for float16, which ends at 65504; take "
                "bfloat16"
            )
        return values

    def finest(self, largest: float) -> float:
        """How far neighbouring values may be apart, up to values of ``largest``."""
        return self.step if self.step is not None else largest * torch.finfo(_FLOATS[self.dtype]).eps

    @property
    def parquet(self) -> Mapping[str, Any]:
        """Options of ``pyarrow.parquet.ParquetWriter``, by which rounded values take less space. Nothing is lost."""
        return _DICTIONARY if self.dtype == _INT8 else _SPLIT


def require_dtype(dtype: object) -> None:
    """Check that prompts can be stored in ``dtype``.

    Raises:
        ConfigurationError: they cannot.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"prompts are stored as {', '.join(DTYPES)}, got {shown(dtype)}")


def _step(prompts: np.ndarray) -> float:
    """With three digits, so that machines which round differently agree."""
    largest = float(np.abs(prompts).max(initial=0.0)) * _ROOM / _STEPS
    return float(f"{largest:.2e}") if largest > 1e-30 else 1.0
