"""Limits on what files and cards of others may state, far above what any model has."""

from __future__ import annotations

import math
from collections.abc import Mapping

from puma_hub.errors import ConfigurationError, shown

MAX_HIDDEN_SIZE = 2**20
MAX_PROMPT_LENGTH = 2**16
MAX_SOURCES = 64
MAX_FORMAT = 2**31
MAX_TEXT = 4096
MAX_USERS = 2**40
MAX_ROWS = 2**50
MAX_BYTES = 2**60
MAX_FILES = 99_999
"""Of a bank; no repository of the Hub holds more."""
_LARGEST = 1e300
_LEVELS = 64  # of lists and mappings in each other


def require_whole(value: object, what: str, largest: int, least: int = 1) -> int:
    """``value``, if it is a whole number from ``least`` to ``largest``.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        raise ConfigurationError(f"{what} must be a whole number >= {least} and <= {largest}, got {shown(value)}")
    return value


def require_number(value: object, what: str, least: float = 0.0) -> float:
    """``value`` as a float, if it is a finite number from ``least`` on.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _LARGEST:
        raise ConfigurationError(f"{what} must be a finite number >= {least:g}, got {shown(value)}")
    return float(value)


def require_plain(value: object, what: str) -> None:
    """Refuse what JSON cannot hold, or not every reader of JSON can take.

    Raises:
        ConfigurationError: something in it is of another kind, not finite, or nested deeper than 64 levels.
    """
    level: list[object] = [value]
    for _ in range(_LEVELS):
        inside: list[object] = []
        for one in level:
            if isinstance(one, Mapping) and all(isinstance(key, str) for key in one):
                inside += one.values()
            elif isinstance(one, (list, tuple)):
                inside += one
            elif not (one is None or isinstance(one, (str, int)) or (isinstance(one, float) and math.isfinite(one))):
                raise ConfigurationError(
                    f"{what} must hold text, finite numbers, true, false, null, lists and mappings by text alone, as "
                    f"JSON does, got {shown(one)}"
                )
        if not inside:
            return
        level = inside
    raise ConfigurationError(f"{what} must not be nested deeper than {_LEVELS} levels")


def require_text(value: object, what: str, longest: int = MAX_TEXT) -> str:
    """``value``, if it is text that prints as one line: not empty, not too long, without control characters.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{what} must be a non-empty string, got {shown(value)}")
    if len(value) > longest or not value.isprintable():
        raise ConfigurationError(
            f"{what} must be at most {longest} printable characters on one line, got {len(value)}: {shown(value)}"
        )
    return value
