"""Joining the banks of several sources on their users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.index import is_rising
from puma_hub.errors import BankError, MismatchError


@dataclass(frozen=True)
class JoinedUsers:
    """Users of several banks, and where they stand in each.

    Args:
        ids: of the users.
        rows: for each bank, the rows of its users, int64 ``(N,)``, for :meth:`PromptBank.prompts_at`; -1 where the bank
            lacks the user.
        incomplete: how many users, of all banks together, are missing from at least one.
    """

    ids: pa.LargeStringArray
    rows: tuple[np.ndarray, ...]
    incomplete: int

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def names(self) -> list[str]:
        """The ids as strings."""
        found: list[str] = self.ids.to_pylist()
        return found

    @property
    def present(self) -> np.ndarray:
        """Which users are in which bank, bool ``(N, banks)``."""
        return np.stack(self.rows, axis=1) >= 0

    def in_order_of_ids(self) -> JoinedUsers:
        """The same in the order in which a saved bank keeps its users."""
        if is_rising(self.ids):
            return self
        return self.take(pc.array_sort_indices(self.ids).to_numpy().astype(np.int64))

    def take(self, numbers: np.ndarray | slice) -> JoinedUsers:
        """Some of them, in the order of ``numbers``."""
        ids = self.ids[numbers] if isinstance(numbers, slice) else self.ids.take(pa.array(numbers))
        return replace(self, ids=ids, rows=tuple(rows[numbers] for rows in self.rows))


def join_users(banks: Sequence[PromptBank], everyone: bool = False) -> JoinedUsers:
    """Join ``banks`` on ``user_id`` without reading a prompt.

    Args:
        everyone: whether users that some bank lacks come along; otherwise only those that are in every bank. The order
            is that of the first bank, then of the next one's further users, and so on.

    Raises:
        MismatchError: prompt lengths differ.
        BankError: there is no bank, or nobody is left.
    """
    if not banks:
        raise BankError("no bank given; give one bank for each source of the adapter")
    lengths = [bank.shape[0] for bank in banks]
    if len(set(lengths)) > 1:
        raise MismatchError(f"the banks have different prompt lengths {lengths}; use banks of one length")
    first, *others = (bank.index for bank in banks)
    if not others:
        if not len(first):
            raise BankError("the bank is empty; there is nothing to migrate")
        return JoinedUsers(first.ids, (np.arange(len(first)),), 0)
    together = pc.unique(pa.chunked_array([bank.index.ids for bank in banks]))
    if not len(together):
        raise BankError(f"all {len(banks)} banks are empty; there is nothing to migrate")
    joined = JoinedUsers(together, tuple(bank.index.rows_of(together) for bank in banks), 0)
    complete = joined.present.all(axis=1)
    joined = replace(joined, incomplete=len(joined) - int(complete.sum()))
    if everyone:
        return joined
    if not complete.any():
        raise BankError(f"none of the {len(joined)} users is in all {len(banks)} banks; check their user ids")
    return joined.take(np.flatnonzero(complete))


def join_banks(banks: Sequence[PromptBank]) -> tuple[list[str], np.ndarray]:
    """The users that are in every bank, and their prompts.

    Returns:
        Ids in the order of the first bank; and prompts ``(N, l, sum of sizes)``, float32, concatenated on the feature
        axis in the order of the banks.

    Raises:
        MismatchError: prompt lengths differ.
        BankError: there is no bank, or no user is in all of them; or prompts are not finite.
    """
    joined = join_users(banks)
    if len(banks) == 1:
        return joined.names, banks[0].prompts
    parts = [bank.prompts_at(rows) for bank, rows in zip(banks, joined.rows)]
    return joined.names, np.concatenate(parts, axis=-1)
