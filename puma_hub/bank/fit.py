"""Whether a bank's prompts are for a scorer: its LLM, template and task."""

from __future__ import annotations

from puma_hub.bank.bank import PromptBank
from puma_hub.errors import MismatchError
from puma_hub.scorer import PersonalizedLM


def require_scorer(bank: PromptBank, lm: PersonalizedLM, what: str) -> None:
    """Refuse a bank whose prompts were made for another LLM, template or task; ``what`` says what it is for.

    A template or task that the bank does not record is not compared.

    Raises:
        MismatchError: one of them differs.
    """
    lm.spec.require_same(bank.model, what)
    template, task = bank.provenance.template, bank.provenance.task
    if template not in (None, lm.template.text):
        raise MismatchError(
            f"{what}: the bank's prompts were made in {template!r}, the scorer has {lm.template.text!r}; give the "
            "scorer the bank's template, template=bank.provenance.template"
        )
    if task not in (None, lm.task):
        raise MismatchError(
            f"{what}: the bank's prompts were made for another task, {task}, than the scorer's, {lm.task}; give the "
            "scorer the bank's, task=bank.provenance.task"
        )
    lm.require_spelling(bank.provenance.details.get("answer_texts"))
