"""Checks on lists of users. Messages count users and never name them."""

from __future__ import annotations

from collections.abc import Container, Sequence

from puma_hub.errors import BankError, UnknownUserError


def user_list(user_ids: Sequence[str]) -> list[str]:
    """The ids as a list; a single string is one user.

    Raises:
        BankError: some are not strings.
    """
    users = [user_ids] if isinstance(user_ids, str) else list(user_ids)
    strange = sum(not isinstance(user, str) for user in users)
    if strange:
        raise BankError(f"user ids must be strings; {strange} of {len(users)} are not, convert them with str()")
    return users


def require_known(user_ids: Sequence[str], known: Container[str], total: int) -> None:
    """Refuse users that are not among the ``known`` ones of a bank of ``total`` users.

    Raises:
        UnknownUserError: some are not.
    """
    unknown = [position for position, user in enumerate(user_ids) if user not in known]
    if unknown:
        raise UnknownUserError(
            f"{len(unknown)} of {len(user_ids)} users are not in this bank of {total} (the first at position "
            f"{unknown[0]}); leave them out or give them a cold-start prompt"
        )


def require_distinct(user_ids: Sequence[str]) -> None:
    """Refuse a list that names a user twice.

    Raises:
        BankError: it does.
    """
    repeated = len(user_ids) - len(set(user_ids))
    if repeated:
        raise BankError(f"{repeated} users are named more than once; name each once")
