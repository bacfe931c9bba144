"""What stands in for the prompt of a user whom one of several source banks lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank, Provenance
from puma_hub.bank.join import JoinedUsers
from puma_hub.bank.reference import Reference
from puma_hub.errors import BankError, ConfigurationError
from puma_hub.extensions import STAND_INS

LEAVE_OUT = "leave-out"
"""Users that some bank lacks do not come along."""

StandIn: TypeAlias = Callable[[Sequence[np.ndarray], np.ndarray], None]
"""Fills in prompts float32 ``(n, l, d)`` of each bank, in place, where ``present``, bool ``(n, banks)``, is false."""


def stand_in_for(policy: str) -> Callable[..., StandIn]:
    """What makes the stand-in of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if policy not in STAND_INS:
        raise ConfigurationError(f"missing={policy!r} is unknown; choose one of {', '.join((LEAVE_OUT, *STAND_INS))}")
    return STAND_INS.bound(policy, {})


def centers_of(adapter: PumaAdapter, banks: Sequence[Provenance], references: Sequence[Reference]) -> list[np.ndarray]:
    """The mean prompt ``(l, d)`` of each bank: what it is standardised by, or its own for an untrained adapter.

    Raises:
        BankError: the mean of a bank is not known.
    """
    if adapter.config.trained_on is not None:
        return [reference.mean for reference in references]
    unknown = [number for number, bank in enumerate(banks, 1) if bank.statistics is None]
    if unknown:
        raise BankError(
            f"bank {unknown[0]} has no statistics, so no mean to stand in for users it lacks; leave missing= out"
        )
    return [bank.statistics.mean for bank in banks if bank.statistics is not None]


def mean_prompt(banks: Sequence[PromptBank], users: JoinedUsers, centers: Sequence[np.ndarray]) -> StandIn:
    """The mean prompt of the bank's training: an offset of 0, as nothing is known of what is the user's own."""

    def fill(parts: Sequence[np.ndarray], present: np.ndarray) -> None:
        for number, (part, center) in enumerate(zip(parts, centers)):
            part[~present[:, number]] = center

    return fill
