"""The records of a keyed store: what a user's prompt is found by, and its bytes."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from puma_hub.bank.rounding import WHOLE, Rounding
from puma_hub.errors import CheckpointError, ConfigurationError, shown

KEY_BYTES = 32
_CHECK_BYTES = 4
_VALUES = {WHOLE: "<f4", "float16": "<f2", "bfloat16": "<u2"}
DTYPES = tuple(_VALUES)

Record: TypeAlias = "tuple[bytes, bytes]"
"""Key and value."""


def key_of(user_id: str) -> bytes:
    """The SHA-256 of an id's UTF-8 bytes.

    LMDB takes keys of 511 bytes at most, and ids may be longer. The store then holds no id either.
    """
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Packing:
    """Prompts as bytes: little-endian values, row by row, and the CRC-32 of key and values.

    Args:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        shape: ``(l, d)`` of a prompt.
    """

    dtype: str
    shape: tuple[int, int]

    @cached_property
    def nbytes(self) -> int:
        """The bytes of a prompt without its checksum."""
        return self.shape[0] * self.shape[1] * np.dtype(_VALUES[self.dtype]).itemsize

    @property
    def record_bytes(self) -> int:
        return KEY_BYTES + self.nbytes + _CHECK_BYTES

    def records(self, user_ids: list[str], prompts: np.ndarray) -> list[Record]:
        """Records of prompts float32 ``(n, l, d)``, rounded to the nearest values of the dtype.

        Raises:
            BankError: a value is too large for the dtype.
        """
        values = prompts if self.dtype == WHOLE else Rounding(self.dtype).rounded(prompts)
        if self.dtype == "bfloat16":  # the upper half of a float32, whose lower half rounding has cleared
            values = values.astype("<f4").view("<u4") >> 16
        packed = values.astype(_VALUES[self.dtype]).reshape(len(user_ids), -1)
        return [(key := key_of(user), _sealed(key, row.tobytes())) for user, row in zip(user_ids, packed)]

    def prompts(self, payloads: np.ndarray) -> np.ndarray:
        """The prompts float32 ``(n, l, d)`` of payloads uint8 ``(n, nbytes)``, in memory of their own."""
        values = payloads.view(_VALUES[self.dtype])
        if self.dtype == "bfloat16":
            values = (values.astype("<u4") << 16).view("<f4")
        return values.astype(np.float32).reshape(-1, *self.shape)

    def payload(self, key: bytes, value: bytes | memoryview, where: str) -> memoryview:
        """The bytes of the prompt in a value.

        Raises:
            CheckpointError: the value has another length, or does not belong to the key.
        """
        payload = memoryview(value)[:-_CHECK_BYTES]
        if len(payload) != self.nbytes or bytes(value[-_CHECK_BYTES:]) != _check(key, payload):
            raise CheckpointError(damaged(where, "the bytes of a prompt are not those that were written"))
        return payload


def require_dtype(dtype: object) -> str:
    """``dtype``, if a store can hold prompts in it.

    Raises:
        ConfigurationError: it cannot.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"a keyed store holds {', '.join(DTYPES)}, got {shown(dtype)}")
    return str(dtype)


def damaged(where: str, reason: object) -> str:
    """The message for a store that cannot be read."""
    return f"the keyed store {where} is damaged ({reason}); copy it again, or make it again with bank.to_lmdb"


def _sealed(key: bytes, payload: bytes) -> bytes:
    return payload + _check(key, payload)


def _check(key: bytes, payload: bytes | memoryview) -> bytes:
    return zlib.crc32(payload, zlib.crc32(key)).to_bytes(_CHECK_BYTES, "little")
