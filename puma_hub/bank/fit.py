"""Checking that a bank fits a scorer: same LLM, template and task."""

from __future__ import annotations

from puma_hub.bank.bank import PromptBank
from puma_hub.errors import MismatchError
from puma_hub.scorer import PersonalizedLM


def require_scorer(bank: PromptBank, lm: PersonalizedLM, what: str) -> None:
    """Check that a bank's prompts were made for the scorer's LLM, template and task.

    A template or task that the bank does not record is not compared. ``what`` names the bank's use in messages.

    Raises:
        MismatchError: LLM, template or task differ.
    """
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
    lm.require_spelling(bank.provenance.details.get("answer_texts"))
