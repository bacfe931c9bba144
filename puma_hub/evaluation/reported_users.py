"""Which users a report is on: all, those of a list, or those that the adapter never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from puma_hub.bank.users import user_list
from puma_hub.data import of_users
from puma_hub.data.rows import column
from puma_hub.errors import InteractionsError, SelectionError


@dataclass(frozen=True)
class ReportedUsers:
    """The users whose rows count.

    ``user_ids``: their ids; None for all. ``listed``: the length of the list they are of. ``trained``: how many are
    left out because the adapter trained on them. ``unknown``: how many it trained on are in no bank. A number is None
    where no such list was given.
    """

    user_ids: list[str] | None = None
    listed: int | None = None
    trained: int | None = None
    unknown: int | None = None

    @classmethod
    def of(
        cls, known: Iterable[str], users: Sequence[str] | None = None, trained: Sequence[str] | None = None
    ) -> ReportedUsers:
        """Of ``users``, by default of all ``known``, those that are not among ``trained``.

        Args:
            known: the users of the banks.
            users: may hold unknown users, whom the evaluation refuses.
            trained: the users that the adapter trained on. Some may be in no bank, such as users who were deleted.

        Raises:
            SelectionError: none of ``trained`` is known, or nobody is left.
            BankError: a list is not one of ids.
        """
        listed = None if users is None else list(dict.fromkeys(user_list(users)))
        if trained is None:
            return cls(listed, None if listed is None else len(listed))
        everyone = dict.fromkeys(known)
        seen = set(user_list(trained))
        strange = len(seen - everyone.keys())
        if strange == len(seen):
            raise SelectionError(
                f"none of the {len(seen)} users that the adapter trained on is in a bank; give the list of its "
                "training, with the ids of the banks"
            )
        asked = list(everyone) if listed is None else listed
        left = [user for user in asked if user not in seen]
        if not left:
            raise SelectionError(
                f"the adapter trained on all {len(asked)} users, so nobody is left to report on; report on all of "
                "them, or train an adapter on fewer"
            )
        return cls(left, None if listed is None else len(listed), len(asked) - len(left), strange)

    def kept(self, rows: datasets.Dataset, known: Iterable[str]) -> datasets.Dataset:
        """The rows that count, and those of users without a prompt, who are not ``known``.

        Raises:
            InteractionsError: none of these users has a row.
        """
        if self.user_ids is None:
            return rows
        chosen = set(self.user_ids)
        users = column(rows, "user_id").unique().to_pylist()
        if not chosen.intersection(users):
            raise InteractionsError(f"none of the {len(chosen)} users to report on has held-out rows; check the ids")
        left_out = set(known) - chosen
        return of_users(rows, [user for user in users if user not in left_out])

    def facts(self) -> dict[str, Any]:
        """The entry of a report: numbers and words, and no id."""
        return {"described": str(self), "listed": self.listed, "trained": self.trained, "unknown": self.unknown}

    def __str__(self) -> str:
        whose = "all users" if self.listed is None else f"the users of a list of {self.listed:,}"
        if self.trained is None:
            return whose
        whose = "the users" if self.listed is None else whose
        unknown = f", {self.unknown:,} in no bank" if self.unknown else ""
        return f"{whose} that the adapter never trained on (those it trained on: {self.trained:,} left out{unknown})"
