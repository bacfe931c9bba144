"""Which users figures are on: arguments that name a list of users, or the list that an adapter trained on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puma_hub.bank import PromptBank
    from puma_hub.evaluation.reported_users import ReportedUsers


def add_reported_users(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trained-users",
        metavar="FILE",
        help="the users that the adapter trained on, as puma-hub select lists them: figures are on the others",
    )
    parser.add_argument(
        "--only-users", metavar="FILE", help="figures are on the users of this list, one id on each line (default: all)"
    )


def read_lists(args: argparse.Namespace) -> tuple[list[str] | None, list[str] | None]:
    """The lists of ``--only-users`` and ``--trained-users``; None where none is given.

    Raises:
        StorageError, SelectionError: a list cannot be read.
    """
    from puma_hub.bank.user_lists import read_users

    only, trained = (read_users(file) if file else None for file in (args.only_users, args.trained_users))
    return only, trained


def reported_users(args: argparse.Namespace, banks: Sequence[PromptBank]) -> ReportedUsers:
    """The users of ``banks`` whom figures are on.

    Raises:
        StorageError, SelectionError: a list cannot be read, or nobody is left.
    """
    from puma_hub.evaluation.reported_users import ReportedUsers

    return ReportedUsers.of([user for bank in banks for user in bank.user_ids], *read_lists(args))
