"""Training and validation rows of an adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import datasets
import torch

from puma_hub.bank import PromptBank
from puma_hub.data import of_users
from puma_hub.data.rows import codes, column
from puma_hub.errors import SelectionError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks.owners import USERS, Owners
from puma_hub.training.encoded_rows import EncodedInteractions, some_users
from puma_hub.training.teacher import TEACHER_COLUMNS, noisy_prompts, source_predictions

logger = logging.getLogger(__name__)


def has_teacher(rows: datasets.Dataset) -> bool:
    """Whether rows have the columns that :func:`with_source_predictions` adds."""
    return any(name in rows.column_names for name in TEACHER_COLUMNS)


def has_labels(rows: datasets.Dataset) -> bool:
    """Whether rows carry labels; those of :func:`puma_hub.training.draw_rows` do not."""
    return "label" in rows.column_names


@dataclass(frozen=True)
class AdapterRows:
    """Encoded rows of the training users and of the validation users.

    Attributes:
        users: the training users.
        without_rows: the number of chosen users who have no rows.
        encoded: all rows, training rows first.
        train: the training rows, with the teacher's predictions if there are any. ``train.users`` index
            :meth:`inputs`.
        validation: the validation rows. ``validation.users`` index the banks' prompts.
        teacher_prompts: the teacher's noisy prompt for each training row, float32 ``(N, l, s)``. None if the teacher
            used the users' own prompts.
    """

    users: list[str]
    without_rows: int
    encoded: EncodedInteractions
    train: EncodedInteractions
    validation: EncodedInteractions
    teacher_prompts: torch.Tensor | None

    def inputs(self, source_prompts: torch.Tensor) -> torch.Tensor:
        """The prompts ``(users or N, l, s)`` that ``train.users`` index, on the device of ``source_prompts``."""
        return source_prompts if self.teacher_prompts is None else self.teacher_prompts.to(source_prompts.device)


def adapter_rows(
    lm: PersonalizedLM,
    rows: datasets.Dataset,
    row_of: Mapping[str, int],
    chosen: Sequence[str],
    shape: tuple[int, int],
    validation_share: float,
    seed: int,
    owners: Owners = USERS,
    given: PromptBank | None = None,
) -> AdapterRows:
    """Split checked ``rows`` by user, or item, and encode them.

    Args:
        row_of: the row of each bank user's prompts.
        chosen: the training and validation users together.
        shape: ``(l, s)`` of a source prompt.
        owners: whose prompts the banks hold.
        given: the target's prompts in the other soft slot, where there are some.

    Raises:
        SelectionError: a chosen user is in no bank, or no chosen user has rows.
        InteractionsError: the teacher's columns are malformed.
    """
    rows, present = _rows_of(rows, row_of, chosen, owners)
    train, validation = some_users(present, validation_share, seed)
    parts = [of_users(rows, names, owners.column) for names in (train, validation)]
    # All rows in one call: the prefix groups are then the same for every split of the users.
    together = datasets.concatenate_datasets(parts)
    encoded = EncodedInteractions.build(lm, together, row_of, shape[0], owners, given)
    training = encoded.take(torch.arange(len(parts[0])))
    held_out = encoded.take(torch.arange(len(parts[0]), len(encoded)))
    teacher_prompts = None
    if has_teacher(rows):
        answers = len(lm.task.answers)
        training = training.with_teacher(*source_predictions(parts[0], answers))
        if not has_labels(rows) and len(held_out):
            held_out = held_out.with_teacher(*source_predictions(parts[1], answers))
        teacher_prompts = noisy_prompts(parts[0], shape)
        if teacher_prompts is not None:  # each row has a prompt of its own
            training = replace(training, users=torch.arange(len(parts[0])))
    return AdapterRows(train, len(chosen) - len(present), encoded, training, held_out, teacher_prompts)


def _rows_of(
    rows: datasets.Dataset, row_of: Mapping[str, int], chosen: Sequence[str], owners: Owners
) -> tuple[datasets.Dataset, list[str]]:
    """The rows of the chosen users or items, and the sorted ids of those that have rows."""
    unknown = sum(user not in row_of for user in chosen)
    if unknown:
        raise SelectionError(
            f"{unknown} of {len(chosen)} {owners.name} to train on are in no bank; select {owners.name} of the bank"
        )
    rows = of_users(rows, chosen, owners.column)
    present = sorted(codes(column(rows, owners.column))[1])
    if not present:
        raise SelectionError(
            f"none of the {len(chosen)} chosen {owners.name} has training rows; choose {owners.name} of the "
            "interactions"
        )
    if len(present) < len(chosen):
        missing = len(chosen) - len(present)
        logger.warning("%d of %d chosen %s have no training rows and were left out", missing, len(chosen), owners.name)
    return rows, present
