"""The sensitivity of an LLM: the gradient of its mean prediction with respect to the soft prompt.

It makes prompts of separate trainings comparable.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.bank.filling import filled_slot, head_of
from puma_hub.bank.fit import require_given, require_owners, require_scorer
from puma_hub.bank.reference import Reference
from puma_hub.data import check_interactions
from puma_hub.data.rows import require_dataset
from puma_hub.errors import BankError, InteractionsError
from puma_hub.scorer import EncodedRows, PersonalizedLM
from puma_hub.scorer.finite import require_finite
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import USERS
from puma_hub.tasks.template import ITEM
from puma_hub.training.report import forward_flops

ROWS = 128
"""The number of rows in the mean prediction. Which rows are taken hardly matters."""


def with_sensitivity(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset,
    *,
    batch_size: int = 256,
    given: PromptBank | None = None,
) -> PromptBank:
    """Return the bank with the sensitivity of its LLM in its statistics.

    Use it for banks made from arrays; banks of :class:`PromptTrainer` have a sensitivity already. An adapter that was
    trained on another bank needs it to scale the users' offsets correctly, see :func:`puma_hub.migrate`.

    Args:
        lm: the scorer of the bank's LLM, with the bank's template and task.
        interactions: rows like those the bank was trained on. 128 evenly spaced rows are used, without labels.
        given: the prompts in the template's other slot; for a bank of items those of users.

    Raises:
        MismatchError: the bank belongs to another LLM, template or task.
        BankError: the bank's mean is not known.
        InteractionsError: there are no rows.
        NotFiniteError: gradients are NaN or infinite.
    """
    require_scorer(bank, lm, "its sensitivity", given)
    known = bank.statistics
    if known is None:
        raise BankError(
            f"a bank of {len(bank)} user(s) without statistics has no mean to measure the sensitivity at; measure it "
            "on the whole bank"
        )
    rows = require_dataset(interactions)
    if not len(rows):
        raise InteractionsError("there are no rows to measure the sensitivity on; give some of the bank's training")
    shown = rows.select_columns(lm.template.columns(rows.column_names))
    encoded = lm.encode(shown, bank.shape[0], filled_slot(given, rows) if given is not None else None)
    head = head_of(bank, given)
    found = sensitivity_at(lm, encoded, torch.from_numpy(known.mean.copy()), head, batch_size)
    return bank.with_provenance(statistics=replace(known, sensitivity=found))


def item_base(
    lm: PersonalizedLM,
    users: PromptBank,
    interactions: datasets.Dataset,
    prompt_length: int = 1,
    *,
    batch_size: int = 256,
) -> Reference:
    """Where item prompts stand that an adapter of users migrates: the word "item" on the target LLM.

    For :func:`puma_hub.migrate` with ``base=``, where there is no adapter of items.

    Args:
        lm: the target's scorer.
        users: the users' bank on the target, whose rating head reads the rows.
        interactions: rows by which the sensitivity there is taken, as :func:`with_sensitivity` does.

    Raises:
        MismatchError: the bank belongs to another LLM, template or task, or the template has no ``<item_prompt>``.
        InteractionsError: there are no rows.
        NotFiniteError: gradients are NaN or infinite.
    """
    require_owners(users, USERS, "the base of items")
    require_given(users, lm, "the base of items")
    rows = check_interactions(interactions, lm.task, labels=False)
    shown = rows.select_columns(lm.template.columns(rows.column_names))
    encoded = lm.encode(shown, prompt_length, filled_slot(users, rows))
    base = lm.word_prompt(prompt_length, ITEM)
    return Reference(base.cpu().numpy(), sensitivity_at(lm, encoded, base, users.head, batch_size))


def sensitivity_at(
    lm: PersonalizedLM, rows: EncodedRows, prompt: torch.Tensor, head: RatingHead | None, batch_size: int
) -> np.ndarray:
    """The gradient of the mean prediction at ``prompt (l, d)``, see :func:`mean_response`."""
    return mean_response(lm, rows, prompt, head, batch_size)[0]


def mean_response(
    lm: PersonalizedLM, rows: EncodedRows, prompt: torch.Tensor, head: RatingHead | None, batch_size: int
) -> tuple[np.ndarray, list[float]]:
    """The gradient of the mean prediction at ``prompt (l, d)``, float32 ``(l, d)``, and the mean answer logits there.

    Means are over :data:`ROWS` of the rows, all with the same prompt. Predictions are the task's linear predictor:
    ratings, or log-odds of a click.

    Raises:
        NotFiniteError: gradients are NaN or infinite.
    """
    head = copy.deepcopy(head).to(lm.device) if head is not None else None
    chosen = _taken(len(rows))
    total = torch.zeros(prompt.shape, dtype=torch.float64)
    answers = torch.zeros(len(lm.task.answers), dtype=torch.float64)
    for start in range(0, len(chosen), batch_size):
        part = rows.take(chosen[start : start + batch_size])
        prompts = prompt.to(lm.device).expand(len(part), -1, -1).clone().requires_grad_(True)
        logits = lm.logits(prompts, part)
        predictions = lm.task.linear_predictor(logits, head)
        (gradients,) = torch.autograd.grad(predictions.sum(), prompts)
        require_finite(gradients, "gradients", lm.dtype)
        total += gradients.double().sum(0).cpu()
        answers += logits.detach().double().sum(0).cpu()
    return np.array((total / len(chosen)).float().numpy()), (answers / len(chosen)).tolist()


def sensitivity_flops(lm: PersonalizedLM, rows: EncodedRows, prompt_length: int) -> float:
    """Estimated FLOPs of :func:`sensitivity_at` without prefixes: its rows forward and backward."""
    return 2 * forward_flops(lm, rows.take(_taken(len(rows))), prompt_length)[0]


def _taken(count: int) -> list[int]:
    """The numbers of :data:`ROWS` evenly spaced rows out of ``count``, or of all rows if there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int)).tolist()
