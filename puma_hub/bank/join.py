"""Joining the banks of several sources on their users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.bank.bank import PromptBank
from puma_hub.errors import BankError, MismatchError


def join_rows(banks: Sequence[PromptBank]) -> tuple[list[str], list[np.ndarray], int]:
    """Join ``banks`` on ``user_id`` without reading a prompt.

    Returns:
        The users that are in every bank, in the order of the first; their rows in each bank, int64 ``(N,)``, for
        :meth:`PromptBank.prompts_at`; and the number of users who are missing from at least one bank.

    Raises:
        MismatchError: prompt lengths differ.
        BankError: there is no bank, or no user is in all of them.
    """
    if not banks:
        raise BankError("no bank given; give one bank for each source of the adapter")
    lengths = [bank.shape[0] for bank in banks]
    if len(set(lengths)) > 1:
        raise MismatchError(f"the banks have different prompt lengths {lengths}; use banks of one length")
    first, *others = (bank.index for bank in banks)
    common = np.ones(len(first), bool)
    for other in others:
        common &= first.is_in(other)
    total = len(first) if not others else len(pc.unique(pa.chunked_array([bank.index.ids for bank in banks])))
    if not common.any():
        if not others:
            raise BankError("the bank is empty; there is nothing to migrate")
        raise BankError(f"none of the {total} users is in all {len(banks)} banks; check their user ids")
    if not others:
        return first.names, [np.arange(len(first))], 0
    mine = np.flatnonzero(common)
    users: list[str] = first.ids.take(pa.array(mine)).to_pylist()
    return users, [mine, *(other.rows(users) for other in others)], total - len(users)


def join_banks(banks: Sequence[PromptBank]) -> tuple[list[str], np.ndarray, int]:
    """Join ``banks`` on ``user_id``.

    Returns:
        The users that are in every bank, in the order of the first; their prompts ``(N, l, sum of sizes)``,
        float32, concatenated on the feature axis in the order of the banks; and the number of users who are missing
        from at least one bank.

    Raises:
        MismatchError: prompt lengths differ.
        BankError: there is no bank, or no user is in all of them; or prompts are not finite.
    """
    users, rows, missing = join_rows(banks)
    if len(banks) == 1:
        return users, banks[0].prompts, missing
    return users, np.concatenate([bank.prompts_at(part) for bank, part in zip(banks, rows)], axis=-1), missing
