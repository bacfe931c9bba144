"""Checks before the users of two banks are put into one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from puma_hub.bank.columns import as_bank_table
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.stored_rows import BankRows
from puma_hub.data.held_out import TrainedRows
from puma_hub.errors import BankError, MismatchError
from puma_hub.tasks import RatingHead

_REMEDY = (
    "prompts of two trainings cannot share a bank; add new users by training them with "
    "PromptTrainer(lm, rows, args, bank=existing), or puma-hub fit --bank"
)


def updated_provenance(
    ours: Provenance, our_head: RatingHead | None, theirs: Provenance, their_head: RatingHead | None, what: str
) -> Provenance:
    """The provenance of a bank to which the users of another are added; ``what`` names the call for messages.

    Raises:
        MismatchError: the other holds prompts of another LLM, template, task, head or base.
        BankError: prompt lengths differ.
    """
    ours.model.require_same(theirs.model, what)
    if ours.prompt_length != theirs.prompt_length:
        shapes = [(facts.prompt_length, facts.model.hidden_size) for facts in (ours, theirs)]
        raise BankError(f"the banks' prompts have shapes {shapes[0]} and {shapes[1]}; give prompts of the same shape")
    require_same_training(ours, our_head, theirs, their_head)
    return replace(ours, trained_rows=TrainedRows.of_all((ours.trained_rows, theirs.trained_rows)))


def require_same_training(
    ours: Provenance, our_head: RatingHead | None, theirs: Provenance, their_head: RatingHead | None
) -> None:
    """Check that two banks' prompts have the same template, task, rating head and base.

    Raises:
        MismatchError: one of these differs, or one bank holds prompts of items and the other of users.
    """
    if ours.owners != theirs.owners:
        raise MismatchError(
            f"the banks hold prompts of {ours.owners} and of {theirs.owners}; keep them in banks of their own"
        )
    for name in ("template", "task"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            raise MismatchError(
                f"the banks' {name}s differ: {_shown(mine)} and {_shown(other)}; {_REMEDY}"
                + ("" if mine and other else f". If they are the same, say so: bank.with_provenance({name}=...)")
            )
    if not same_head(our_head, their_head):
        found = " and ".join("a rating head" if head else "none" for head in (our_head, their_head))
        raise MismatchError(f"the banks' rating heads differ ({found}, not with the same weights); {_REMEDY}")
    if not _same_base(ours, theirs):
        raise MismatchError(
            f"the banks do not record the same base, so their prompts may be of two trainings; {_REMEDY}. If they are "
            "of one training, say so: bank.with_provenance(statistics=existing.statistics)"
        )


def aligned(other: BankRows, ours: BankRows) -> pa.Table:
    """All rows of ``other``, with the column order and types of ``ours``.

    Raises:
        BankError: ``other`` has more or fewer columns, or a column cannot be converted.
    """
    more, fewer = set(other.features) - set(ours.features), set(ours.features) - set(other.features)
    if more or fewer:
        differences = [f"extra {sorted(more)}"] * bool(more) + [f"missing {sorted(fewer)}"] * bool(fewer)
        raise BankError(
            f"the new users' columns differ: {' and '.join(differences)}; give them the bank's columns with "
            "dataset.add_column or dataset.remove_columns, and PromptBank(dataset, bank.provenance, bank.head)"
        )
    table = other.take(np.arange(len(other))).table
    try:
        return as_bank_table(table, ours.features)
    except BankError:
        raise
    except (pa.ArrowException, ValueError) as error:
        changed = [name for name in ours.features if ours.features[name] != other.features[name]]
        raise BankError(
            f"the new users' columns {changed} have types {[str(other.features[name]) for name in changed]}, not "
            f"{[str(ours.features[name]) for name in changed]}; cast them first"
        ) from error


def same_head(ours: RatingHead | None, theirs: RatingHead | None) -> bool:
    """Whether both heads have the same weights, bit for bit."""
    if ours is None or theirs is None:
        return ours is theirs
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name].cpu(), other[name].cpu()) for name in mine)


def _same_base(ours: Provenance, theirs: Provenance) -> bool:
    """Whether both banks' prompts were trained around the same base. Imported prompts have a base of their own."""
    mine, other = ours.statistics, theirs.statistics
    return (mine and mine.base_id) == (other and other.base_id)


def _shown(fact: Any) -> str:
    if fact is None:
        return "not recorded"
    return repr(fact) if isinstance(fact, str) else str(fact.to_dict())
