"""Limits on what files and cards of others may state, far above what any model has."""

from __future__ import annotations

from puma_hub.errors import ConfigurationError, shown

MAX_HIDDEN_SIZE = 2**20
MAX_PROMPT_LENGTH = 2**16
MAX_SOURCES = 64
MAX_FORMAT = 2**31
MAX_TEXT = 4096
MAX_USERS = 2**40
MAX_BYTES = 2**60
MAX_FILES = 99_999
"""Of a bank; no repository of the Hub holds more."""


def require_whole(value: object, what: str, largest: int, least: int = 1) -> int:
    """``value``, if it is a whole number from ``least`` to ``largest``.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        raise ConfigurationError(f"{what} must be a whole number >= {least} and <= {largest}, got {shown(value)}")
    return value


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
