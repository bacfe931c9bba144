"""A bank's prompts in one soft slot of rows, while the other slot is open."""

from __future__ import annotations

import datasets
import numpy as np
import torch

from puma_hub.bank.bank import PromptBank
from puma_hub.data.rows import codes, column
from puma_hub.scorer import FilledSlot
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import USERS


def mean_prompt(bank: PromptBank) -> np.ndarray:
    """The mean float32 ``(l, d)`` of the bank's training, or of its prompts where it records none."""
    known = bank.statistics
    if known is not None:
        return known.mean
    mean: np.ndarray = bank.prompts.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def filled_slot(bank: PromptBank, rows: datasets.Dataset) -> FilledSlot:
    """The bank's slot in ``rows``, with the prompts of their users or items; the mean for those without a prompt."""
    of_row, at = _places(bank, rows)
    prompts = np.repeat(mean_prompt(bank)[None], len(at), axis=0)
    prompts[at >= 0] = bank.prompts_at(at[at >= 0])
    return FilledSlot(bank.owners.slot, torch.from_numpy(prompts), of_row)


def without_prompt(bank: PromptBank, rows: datasets.Dataset) -> int:
    """How many ``rows`` are of users or items that the bank has no prompt of."""
    of_row, at = _places(bank, rows)
    return int((at[of_row] < 0).sum())


def head_of(bank: PromptBank, given: PromptBank | None) -> RatingHead | None:
    """The rating head of two banks that are used together: the one of the users' bank."""
    return given.head if given is not None and given.owners is USERS else bank.head


def _places(bank: PromptBank, rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Each row's number among the distinct ids, and the rows in the bank of these, -1 for none."""
    of_row, names = codes(column(rows, bank.owners.column))
    return of_row, bank.index.rows(names)
