"""What must fit together before a prompt is moved: banks and adapter, and the adapters of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.reference import Reference
from puma_hub.errors import MismatchError
from puma_hub.migration.other_base import check_owners


def check_banks(adapter: PumaAdapter, banks: Sequence[PromptBank], base: Reference | None = None) -> None:
    """Raise MismatchError unless there is one fitting bank for each source of ``adapter``, in its order."""
    sources = adapter.config.sources
    if len(banks) != len(sources):
        names = ", ".join(spec.model_id for spec in sources)
        raise MismatchError(f"this adapter takes {len(sources)} bank(s), for {names}; got {len(banks)}")
    check_owners(adapter, banks, base)
    for number, (spec, bank) in enumerate(zip(sources, banks), 1):
        spec.require_same(bank.model, f"bank {number} of {len(banks)}")
        if bank.shape[0] != adapter.config.prompt_length:
            raise MismatchError(
                f"this adapter takes prompts of length {adapter.config.prompt_length}, bank {number} has length "
                f"{bank.shape[0]}"
            )


def check_links(steps: Sequence[PumaAdapter]) -> None:
    """Raise MismatchError unless each adapter takes exactly what the one before it gives."""
    for number, (before, after) in enumerate(pairwise(steps), 2):
        given, taken = before.config, after.config
        if len(taken.sources) != 1:
            raise MismatchError(
                f"adapter {number} of the chain joins {len(taken.sources)} sources; only the first may take "
                "several banks"
            )
        taken.sources[0].require_same(given.require_pair(), f"adapter {number} of the chain")
        if taken.prompt_length != given.prompt_length:
            raise MismatchError(
                f"adapter {number} of the chain takes prompts of length {taken.prompt_length}, the one before gives "
                f"length {given.prompt_length}"
            )
        if taken.owners != given.owners:
            raise MismatchError(
                f"adapter {number} of the chain was trained for prompts of {taken.owners}, the one before for those of "
                f"{given.owners}; take adapters of one kind"
            )
        if taken.scored_task != given.scored_task:
            raise MismatchError(
                f"adapter {number} of the chain was trained for {taken.scored_task}, the one before for "
                f"{given.scored_task}; take adapters of one task"
            )
