"""Joining the banks of several sources on their users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puma_hub.bank.bank import PromptBank
from puma_hub.errors import BankError, MismatchError


def join_banks(banks: Sequence[PromptBank]) -> tuple[list[str], np.ndarray, int]:
    """Join ``banks`` on ``user_id``.

    Returns:
        The users that are in every bank, in the order of the first; their prompts ``(N, l, sum of sizes)``,
        float32, concatenated on the feature axis in the order of the banks; and how many users are missing
        from at least one bank.

    Raises:
        MismatchError: prompt lengths differ.
        BankError: there is no bank, or no user is in all of them.
    """
    if not banks:
        raise BankError("no bank given; give one bank for each source of the adapter")
    lengths = [bank.shape[0] for bank in banks]
    if len(set(lengths)) > 1:
        raise MismatchError(f"the banks have different prompt lengths {lengths}; use banks of one length")
    first, *others = banks
    if not others:
        users = first.user_ids
        if not users:
            raise BankError("the bank is empty; there is nothing to migrate")
        return users, first.prompts, 0
    users = [user for user in first.user_ids if all(user in bank for bank in others)]
    everyone = set().union(*(bank.user_ids for bank in banks))
    if not users:
        raise BankError(f"none of the {len(everyone)} users is in all {len(banks)} banks; check their user ids")
    parts = [bank.prompts[bank.rows(users)] for bank in banks]
    return users, np.concatenate(parts, axis=-1), len(everyone) - len(users)
