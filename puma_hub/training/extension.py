"""Adding users to an existing bank: the frozen base and head they are trained with, and the extended bank."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from puma_hub.bank import PromptBank
from puma_hub.bank.columns import to_dataset
from puma_hub.bank.filling import head_of, mean_prompt
from puma_hub.bank.fit import GIVEN, require_scorer
from puma_hub.data.held_out import TrainedRows
from puma_hub.data.rows import flat
from puma_hub.errors import BankError, ConfigurationError, MismatchError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import RatingHead
from puma_hub.tasks.template import ITEM
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.state import identity_hash, tensor_hash
from puma_hub.training.variances import Variances, variances_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frozen:
    """The parts of an existing bank that stay fixed while prompts of added users are trained.

    Attributes:
        base: the prompt that the bank's users share, float32 ``(l, d)``, in the LLM's units. None for the independent
            method.
        head: the bank's rating head.
        others: the number of rows that the bank's other users were trained on.
        variances: those of offsets and noise, if the bank records them.
    """

    base: torch.Tensor | None
    head: RatingHead | None
    others: int
    variances: Variances | None = None


def base_of(bank: PromptBank) -> torch.Tensor:
    """The prompt that a bank's users share, float32 ``(l, d)``.

    It is the mean of the bank's training, or of the bank's prompts if no training is recorded.
    """
    return torch.from_numpy(mean_prompt(bank).copy())


def filled_for(
    bank: PromptBank, lm: PersonalizedLM, args: PumaTrainingArguments, given: PromptBank | None = None
) -> PumaTrainingArguments:
    """``args`` with the bank's prompt method and length, and without validation rows unless a share is given.

    Raises:
        MismatchError: the bank is of another LLM, template, task or prompt length.
        ConfigurationError: the bank was trained by another method.
        BankError: the bank is empty.
    """
    require_scorer(bank, lm, "the bank to add users to", given)
    if not len(bank):
        raise BankError("the bank to add users to is empty, so it has no base; train its prompts without bank=")
    if args.prompt_length not in (None, bank.shape[0]):
        raise MismatchError(
            f"the bank's prompts have length {bank.shape[0]}, prompt_length={args.prompt_length} was given; leave it "
            "out"
        )
    method = bank.provenance.details.get("prompt_method")
    if method is not None and args.prompt_method not in (None, method):
        raise ConfigurationError(
            f"the bank's prompts were trained by the method {method!r}, prompt_method={args.prompt_method!r} was "
            "given; leave it out"
        )
    defaults = {"prompt_method": method or "posterior", "prompt_length": bank.shape[0], "validation_share": 0.0}
    return args.filled(defaults)


def frozen_for_items(lm: PersonalizedLM, users: PromptBank, args: PumaTrainingArguments) -> Frozen:
    """The fixed base and head for training the first prompts of items.

    The base is the word that filled their slot when the prompts of ``users`` were trained; the head is that of users.
    """
    assert args.prompt_length is not None  # filled
    base = lm.word_prompt(args.prompt_length, ITEM) if args.prompt_method != "independent" else None
    return Frozen(base, _frozen_head(users), 0)


def frozen(
    bank: PromptBank, users: Sequence[str], rows: int, method: str | None, given: PromptBank | None = None
) -> Frozen:
    """The fixed base and head for training ``users``, who have ``rows`` training rows."""
    base = base_of(bank) if method != "independent" else None
    if base is None:
        logger.warning(
            "the bank's prompts are independent, so there is no shared base: the prompts of %d users start at random, "
            "and only the head is taken from the bank",
            len(users),
        )
    details = bank.provenance.details
    known = bool(details.get("rows")) and bool(details.get("users"))
    each = float(details["rows"]) / float(details["users"]) if known else rows / len(users)
    coming = set(users)
    others = round(each * sum(user not in coming for user in bank.user_ids)) if method != "posterior" else 0
    return Frozen(base, _frozen_head(bank, given), others, variances_of(details))


def _frozen_head(bank: PromptBank, given: PromptBank | None = None) -> RatingHead | None:
    head = head_of(bank, given)
    return None if head is None else copy.deepcopy(head).float().eval().requires_grad_(False)


def bank_hash(bank: PromptBank) -> str:
    """Hash the users, prompts and head of a bank."""
    head = bank.head.state_dict().values() if bank.head is not None else ()
    return identity_hash({"users": bank.user_ids, "values": tensor_hash(torch.from_numpy(bank.prompts.copy()), *head)})


def extended(
    bank: PromptBank, users: Sequence[str], prompts: np.ndarray, trained: TrainedRows, facts: Mapping[str, Any]
) -> PromptBank:
    """The bank with ``prompts (n, l, d)`` of ``users``: new users at its end, prompts of known users replaced.

    All other prompts stay the same to the bit. Further columns are kept and are null for new users.
    ``details["added"]`` records how many users were added, and when. ``trained`` are the rows they were trained on.
    """
    new = [number for number, user in enumerate(users) if user not in bank]
    renewed = [number for number, user in enumerate(users) if user in bank]
    values = np.concatenate([bank.prompts, prompts[new]])
    values[bank.rows([users[number] for number in renewed])] = prompts[renewed]
    old = flat(bank.dataset)
    names, ids = old.column_names, old.data.table.schema.field("user_id").type
    length, size = bank.shape
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), length * size)
    added = pa.table({"user_id": pa.array([users[number] for number in new], ids)})
    parts = [old.data.table.drop_columns("prompt").replace_schema_metadata(None), added]
    table = pa.concat_tables(parts, promote_options="default").append_column("prompt", column)
    dataset = to_dataset(table.select(names), old.features)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    step = {"users": len(new), "renewed": len(renewed), "when": when, **facts}
    given = {GIVEN: facts[GIVEN]} if GIVEN in facts else {}
    details = {**bank.provenance.details, **given, "added": [*bank.provenance.details.get("added", ()), step]}
    rows = TrainedRows.of_all([bank.provenance.trained_rows, trained])
    return PromptBank(dataset, replace(bank.provenance, details=details, trained_rows=rows), bank.head)
