"""Checks on lists of users. Messages count users and never name them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from puma_hub.errors import BankError, UnknownUserError


def user_list(user_ids: Iterable[str]) -> list[str]:
    """The ids as a list. A single string is one user. A set has no order, so it is sorted.

    Raises:
        BankError: this is not a list of ids, or some ids are not strings.
    """
    if isinstance(user_ids, str):
        return [str(user_ids)]
    if hasattr(user_ids, "columns"):  # iterating over a table would give the names of its columns
        raise BankError(f"user ids must be one column, got {type(user_ids).__name__}; give table['user_id']")
    given: Any = getattr(user_ids, "to_pylist", lambda: user_ids)()  # Arrow's strings
    if isinstance(given, (bytes, bytearray, memoryview)) or not isinstance(given, Iterable):
        raise BankError(f"user ids are given as a list of strings, got {type(user_ids).__name__}")
    try:
        users = list(given)
    except TypeError as error:  # for example an array without dimensions
        raise BankError(f"user ids are given as a list of strings, got {type(user_ids).__name__}") from error
    strange = sum(not isinstance(user, str) for user in users)
    if strange:
        raise BankError(f"user ids must be strings; {strange} of {len(users)} are not, convert them with str()")
    users = [str(user) for user in users]  # plain strings, not NumPy's
    return sorted(users) if isinstance(given, (set, frozenset)) else users


def require_known(positions: Sequence[int], asked: int, total: int) -> None:
    """Check that all users are in a bank of ``total`` users.

    Args:
        positions: the positions of the missing users in a list of ``asked`` users.

    Raises:
        UnknownUserError: a user is missing.
    """
    if len(positions):
        raise UnknownUserError(
            f"{len(positions)} of {asked} users are not in this bank of {total} (the first at position "
            f"{positions[0]}); leave them out or give them a cold-start prompt"
        )


def require_distinct(user_ids: Collection[str]) -> None:
    """Check that a list names no user twice.

    Raises:
        BankError: a user is named twice.
    """
    repeated = len(user_ids) - len(set(user_ids))
    if repeated:
        raise BankError(f"{repeated} users are named more than once; name each once")
