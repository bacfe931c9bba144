"""How well a bank's prompts predict held-out rows."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.data import check_interactions, of_users
from puma_hub.data.held_out import refuse_trained_rows
from puma_hub.data.rows import numbers, texts
from puma_hub.errors import InteractionsError, MismatchError
from puma_hub.evaluation.baselines import rating_baselines
from puma_hub.evaluation.scores import auc, mae, rmse, user_auc
from puma_hub.scorer import EncodedRows, PersonalizedLM, RatingHead, Task
from puma_hub.scorer.batches import predict_rows


def scores(task: Task, predictions: np.ndarray, labels: np.ndarray, users: list[str]) -> dict[str, float]:
    """RMSE and MAE of ratings, or AUC and user AUC of clicks."""
    if task.name == "rating":
        return {"rmse": rmse(predictions, labels), "mae": mae(predictions, labels)}
    mean_auc, counted = user_auc(predictions, labels, users)
    return {"auc": auc(predictions, labels), "user_auc": mean_auc, "users_with_both_classes": counted}


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of a bank's users, ready to be scored with any prompts of them."""

    lm: PersonalizedLM
    bank: PromptBank
    head: RatingHead | None
    rows: datasets.Dataset
    left_out: int
    batch_size: int
    trained_on: int = 0

    @classmethod
    def build(
        cls,
        lm: PersonalizedLM,
        bank: PromptBank,
        rows: datasets.Dataset,
        head: RatingHead | None = None,
        batch_size: int = 256,
        users: Sequence[str] | None = None,
        *,
        train: datasets.Dataset | None = None,
        allow_training_rows: bool = False,
    ) -> HeldOut:
        """Keep the rows of ``users``, by default all of the bank's, and count the others.

        ``head`` is the bank's own by default. ``train`` are the training rows of the same split, which tell repeated
        rows from rows the bank was trained on.

        Raises:
            MismatchError: the bank belongs to another LLM.
            InteractionsError: no row is left, or the bank was trained on them and ``allow_training_rows`` is false.
        """
        lm.spec.require_same(bank.model, "evaluation")
        if bank.provenance.task not in (None, lm.task):
            raise MismatchError("the bank was made for another task than the scorer; give both the same task")
        if isinstance(rows, datasets.Dataset) and not len(rows):
            raise InteractionsError("no row is held out; a user needs at least two rows, of which the last is held out")
        lm.require_spelling(bank.provenance.details.get("answer_texts"))
        rows = check_interactions(rows, lm.task)
        kept = of_users(rows, bank.user_ids if users is None else list(users))
        if not len(kept):
            raise InteractionsError(f"none of the {len(rows)} rows belongs to a user of the bank; check the user ids")
        known = check_interactions(train) if train is not None and len(train) else None
        trained_on = refuse_trained_rows(kept, bank.provenance.trained_rows, known, allow_training_rows)
        return cls(
            lm, bank, head if head is not None else bank.head, kept, len(rows) - len(kept), batch_size, trained_on
        )

    @cached_property
    def users(self) -> list[str]:
        """The user of each row."""
        return texts(self.rows, "user_id")

    @cached_property
    def labels(self) -> np.ndarray:
        return numbers(self.rows, "label")

    @cached_property
    def own(self) -> np.ndarray:
        """Predictions ``(N,)`` with the users' own prompts."""
        return self.predict(self.bank.prompts, self.bank.rows(self.users))

    @cached_property
    def _encoded(self) -> EncodedRows:
        names = self.lm.template.columns(self.rows.column_names)
        return self.lm.encode(self.rows.select_columns(names), self.bank.shape[0])

    @property
    def truncated(self) -> int:
        """How many rows show less than their item's text."""
        return self._encoded.truncated

    def rows_of(self, user_ids: Collection[str]) -> np.ndarray:
        """Numbers of the rows of some users."""
        wanted = set(user_ids)
        return np.flatnonzero([user in wanted for user in self.users])

    def predict(
        self, prompts: np.ndarray, prompt_of: Sequence[int] | np.ndarray, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """Predictions of the rows ``numbers``, of all by default; the i-th with ``prompts[prompt_of[i]]``."""
        device = self.lm.device
        logits = predict_rows(
            self.lm,
            self._encoded if numbers is None else self._encoded.take(numbers),
            torch.from_numpy(np.array(prompts)).to(device),
            torch.as_tensor(np.asarray(prompt_of, dtype=np.int64)),
            self.batch_size,
        )
        with torch.no_grad():
            head = self.head.to(device) if self.head is not None else None
            return self.lm.task.predict(logits, head).cpu().double().numpy()


def evaluate_bank(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset | Mapping[str, datasets.Dataset],
    head: RatingHead | None = None,
    *,
    batch_size: int = 256,
    allow_training_rows: bool = False,
) -> dict[str, Any]:
    """Score held-out rows with the users' own prompts.

    Args:
        interactions: held-out rows, or the splits ``train`` and ``validation``; the baselines need ``train``.
        head: the rating head; the bank's own by default.
        allow_training_rows: evaluate even though the bank was trained on these rows; their errors are then too small.

    Returns:
        A report with the task's metrics, the number of rows and users, rows of users without a prompt, rows the bank
        was trained on (``rows_trained_on``, estimated beyond 1,024 training rows), and for ratings, where ``train`` is
        given, the non-LLM baselines on the same rows.

    Raises:
        MismatchError: the bank belongs to another LLM or task.
        InteractionsError: rows are malformed, none belongs to a user of the bank, or the bank was trained on them.
    """
    splits = {"validation": interactions} if isinstance(interactions, datasets.Dataset) else interactions
    if "validation" not in splits:
        raise InteractionsError(f"evaluation needs the split validation, found {', '.join(splits) or 'none'}")
    train = splits.get("train")
    held_out = HeldOut.build(
        lm,
        bank,
        splits["validation"],
        head,
        batch_size,
        train=train,
        allow_training_rows=allow_training_rows,
    )
    return evaluate_rows(held_out, train)


def evaluate_rows(held_out: HeldOut, train: datasets.Dataset | None = None) -> dict[str, Any]:
    """The report of :func:`evaluate_bank`; the baselines need the training rows."""
    start = time.monotonic()
    task, users, labels = held_out.lm.task, held_out.users, held_out.labels
    report: dict[str, Any] = {
        "task": task.name,
        "metrics": scores(task, held_out.own, labels, users),
        "rows": len(labels),
        "users": len(set(users)),
        "rows_without_prompt": held_out.left_out,
        "rows_trained_on": held_out.trained_on,
        "truncated_rows": held_out.truncated,
        "answer_texts": list(held_out.lm.answer_texts),
        "seconds": time.monotonic() - start,
    }
    if task.name == "rating" and train is not None:
        report["baselines"] = {
            name: {"rmse": rmse(values, labels), "mae": mae(values, labels)}
            for name, values in rating_baselines(check_interactions(train, task), held_out.rows).items()
        }
    return report
