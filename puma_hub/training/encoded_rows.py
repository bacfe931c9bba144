"""Encoded interactions for the trainers: token ids, labels and the number of each row's user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.bank.filling import filled_slot
from puma_hub.data import check_interactions
from puma_hub.data.biases import offsets_of
from puma_hub.data.rows import codes, column, numbers
from puma_hub.data.split import TimeOrder
from puma_hub.scorer import EncodedRows, PersonalizedLM
from puma_hub.tasks.owners import USERS, Owners
from puma_hub.training.state import identity_hash, tensor_hash


@dataclass(frozen=True)
class EncodedInteractions:
    """Encoded interactions.

    Attributes:
        rows: the token ids.
        labels: float32 ``(N,)``, less the task's offsets.
        users: int64 ``(N,)``, the row in the bank of each interaction's user, or item for a bank of items.
        predictions: the teacher's, float32 ``(N,)``; None without a teacher.
        probabilities: the teacher's for each answer, float32 ``(N, answers)``; None without a teacher.
    """

    rows: EncodedRows
    labels: torch.Tensor
    users: torch.Tensor
    predictions: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def build(
        cls,
        lm: PersonalizedLM,
        interactions: datasets.Dataset,
        row_of: Mapping[str, int],
        prompt_length: int,
        owners: Owners = USERS,
        given: PromptBank | None = None,
    ) -> EncodedInteractions:
        """Check and tokenise ``interactions``. ``row_of`` has the bank row of every user, or item, in them.

        Labels are NaN if there is no such column. ``given``: the bank whose prompts fill the other soft slot.
        """
        interactions = check_interactions(interactions, lm.task, labels=False)
        shown = interactions.select_columns(lm.template.columns(interactions.column_names))
        rows = lm.encode(shown, prompt_length, filled_slot(given, interactions) if given is not None else None)
        labels = torch.full((len(interactions),), math.nan)
        if "label" in interactions.column_names:
            known = offsets_of(interactions, lm.task)
            labels = torch.from_numpy((numbers(interactions, "label") - known).astype(np.float32))
        user_of, names = codes(column(interactions, owners.column))
        users = torch.from_numpy(np.array([row_of[name] for name in names], dtype=np.int64)[user_of])
        return cls(rows, labels, users)

    def targets(self, teacher_weight: float) -> torch.Tensor:
        """The training targets ``(N,)``: the labels, or their weighted mean with the teacher's predictions."""
        if self.predictions is None:
            return self.labels
        return teacher_weight * self.predictions + (1.0 - teacher_weight) * self.labels

    def with_teacher(self, predictions: torch.Tensor, probabilities: torch.Tensor) -> EncodedInteractions:
        """The same rows with a teacher's predictions, which also stand for labels that are missing."""
        labels = torch.where(self.labels.isnan(), predictions, self.labels)
        return replace(self, labels=labels, predictions=predictions, probabilities=probabilities)

    def with_users(self, place: torch.Tensor) -> EncodedInteractions:
        """The same rows whose users are numbered by ``place``, in which their numbers until now are looked up."""
        return replace(self, users=place[self.users])

    def take(self, numbers: torch.Tensor) -> EncodedInteractions:
        teacher = [part if part is None else part[numbers] for part in (self.predictions, self.probabilities)]
        return EncodedInteractions(
            self.rows.take(numbers.tolist()), self.labels[numbers], self.users[numbers], *teacher
        )

    def hashes(self) -> list[str]:
        """Hashes of labels, users and token ids, and of the prompts in a filled slot."""
        texts, filled = {"rows": self.rows.listed()}, self.rows.filled
        given = [] if filled is None else [tensor_hash(filled.prompts, torch.from_numpy(filled.of_row))]
        return [tensor_hash(self.labels, self.users), identity_hash(texts), *given]


def last_of_each_user(
    interactions: datasets.Dataset, share: float, owners: Owners = USERS
) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to validate on: the last ``share`` in time of each user's, or item's, rows.

    Validation gets the last ``share``. Each user, or item, keeps at least one row for training.
    """
    order = TimeOrder.of(interactions, owners.column)
    kept = order.position < np.maximum(1, order.count - np.floor(order.count * share + 1e-9))
    return np.sort(order.rows[kept]).tolist(), np.sort(order.rows[~kept]).tolist()


def some_users(users: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split ``users`` at random into training and validation users; at least one user is left for training."""
    count = min(math.floor(len(users) * share + 1e-9), len(users) - 1)
    order = np.random.default_rng(seed).permutation(len(users))
    held = {int(i) for i in order[:count]}
    return [u for i, u in enumerate(users) if i not in held], [u for i, u in enumerate(users) if i in held]
