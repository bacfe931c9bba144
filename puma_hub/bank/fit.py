"""Checking that a bank fits a scorer: same LLM, template and task, and a template with its soft slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.provenance import Provenance
from puma_hub.errors import MismatchError
from puma_hub.identity import ModelSpec
from puma_hub.tasks import PromptTemplate, Task
from puma_hub.tasks.owners import ITEMS, Owners

GIVEN = "given"  # among the details of a bank's provenance: what stood in the other slot when it was trained


class ReadsRows(Protocol):
    """What turns rows into the inputs of an LLM, such as a scorer."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def template(self) -> PromptTemplate: ...
    @property
    def task(self) -> Task: ...
    def require_spelling(self, texts: Sequence[str] | None) -> None: ...


class HoldsPrompts(Protocol):
    """What holds prompts, such as a bank."""

    @property
    def model(self) -> ModelSpec: ...
    @property
    def provenance(self) -> Provenance: ...
    @property
    def owners(self) -> Owners: ...


def require_scorer(bank: HoldsPrompts, lm: ReadsRows, what: str, given: PromptBank | None = None) -> None:
    """Check that a bank's prompts were made for the scorer's LLM, template and task.

    A template or task that the bank does not record is not compared. ``what`` names the bank's use in messages.

    Args:
        given: a bank whose prompts stand in the template's other slot; it has to fit the scorer, too.

    Raises:
        MismatchError: one of them differs, both banks hold prompts of users or of items, the template lacks their
            slots, or the bank was trained with prompts in the other slot and none are given.
    """
    _require_fit(bank, lm, what)
    if given is not None:
        require_given(given, lm, what)
        if given.owners is bank.owners:
            raise MismatchError(
                f"{what}: both banks hold prompts of {bank.owners.name}; give one of users and one of items"
            )
    else:
        require_alone(bank, what)


def require_alone(bank: HoldsPrompts, what: str) -> None:
    """Refuse a bank whose prompts are read along with prompts in the template's other slot.

    Raises:
        MismatchError: they are items', or were trained so.
    """
    if bank.owners is ITEMS or bank.provenance.details.get(GIVEN) is not None:
        others = bank.owners.others.name
        raise MismatchError(
            f"{what}: these prompts of {bank.owners.name} are read along with prompts of {others}, and no bank of "
            f"{others} is given"
        )


def require_given(given: PromptBank, lm: ReadsRows, what: str) -> None:
    """Refuse a bank for the slot beside the one of the prompts that are trained or scored, as :func:`require_scorer`.

    Raises:
        MismatchError: it does not fit, or the template has one soft slot alone.
    """
    _require_fit(given, lm, f"{what}, given prompts")
    if given.owners.others.slot not in lm.template.soft_slots:
        raise MismatchError(
            f"{what}: prompts of {given.owners.name} are given, and the template {lm.template.text!r} has no other "
            "soft slot; use the template 'rating-items', or a text with <user> and <item_prompt>"
        )


def require_owners(bank: PromptBank, owners: Owners, what: str) -> None:
    """Refuse a bank of items where one of users is needed, and the other way round.

    Raises:
        MismatchError: it is.
    """
    if bank.owners is not owners:
        raise MismatchError(
            f"{what}: the bank holds prompts of {bank.owners.name}; give a bank of {owners.name} (its provenance says "
            f"owners={owners.name!r})"
        )


def given_fact(given: PromptBank | None) -> dict[str, Any]:
    """What is recorded among a bank's details of the one it was trained along with."""
    if given is None:
        return {}
    known = given.statistics
    return {GIVEN: {"owners": given.owners.name, "base_id": known.base_id if known is not None else None}}


def _require_fit(bank: HoldsPrompts, lm: ReadsRows, what: str) -> None:
    lm.spec.require_same(bank.model, what)
    template, task = bank.provenance.template, bank.provenance.task
    if template not in (None, lm.template.text):
        raise MismatchError(
            f"{what}: the bank's prompts were made with the template {template!r}, the scorer has "
            f"{lm.template.text!r}; give the scorer the bank's template, template=bank.provenance.template"
        )
    if task not in (None, lm.task):
        raise MismatchError(
            f"{what}: the bank's prompts were made for another task: {task}, the scorer has {lm.task}; give the "
            "scorer the bank's task, task=bank.provenance.task"
        )
    if bank.owners.slot not in lm.template.soft_slots:
        raise MismatchError(
            f"{what}: prompts of {bank.owners.name} take the slot <{bank.owners.slot}>, and the scorer's template "
            f"{lm.template.text!r} has none; use the template 'rating-items', or a text with that slot"
        )
    lm.require_spelling(bank.provenance.details.get("answer_texts"))
