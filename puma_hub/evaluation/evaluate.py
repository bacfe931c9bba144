"""How well a bank's prompts predict held-out rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.data import check_interactions, of_users
from puma_hub.errors import InteractionsError, MismatchError
from puma_hub.evaluation.baselines import rating_baselines
from puma_hub.evaluation.scores import auc, mae, rmse, user_auc
from puma_hub.scorer import PersonalizedLM, RatingHead, Task
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
    rows: datasets.Dataset
    left_out: int
    batch_size: int

    @classmethod
    def build(cls, lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset, batch_size: int = 256) -> HeldOut:
        """Keep the rows of the bank's users and count the others.

        Raises:
            MismatchError: the bank belongs to another LLM.
            InteractionsError: no row is left.
        """
        lm.spec.require_same(bank.model, "evaluation")
        if bank.provenance.task not in (None, lm.task):
            raise MismatchError("the bank was made for another task than the scorer; give both the same task")
        rows = check_interactions(rows, lm.task)
        kept = of_users(rows, bank.user_ids)
        if not len(kept):
            raise InteractionsError(f"none of the {len(rows)} rows belongs to a user of the bank; check the user ids")
        return cls(lm, bank, kept, len(rows) - len(kept), batch_size)

    @property
    def users(self) -> list[str]:
        return list(self.rows["user_id"])

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.rows["label"], dtype=np.float64)

    def predict(self, prompts: np.ndarray, head: RatingHead | None) -> np.ndarray:
        """Predictions ``(N,)`` of the rows, with ``prompts (users of the bank, l, d)``."""
        names = [name for name in ("item_text", "history") if name in self.rows.column_names]
        encoded = self.lm.encode(self.rows.select_columns(names), self.bank.shape[0])
        numbers = torch.tensor(self.bank.rows(self.users))
        device = self.lm.device
        logits = predict_rows(
            self.lm, encoded, torch.from_numpy(np.array(prompts)).to(device), numbers, self.batch_size
        )
        with torch.no_grad():
            return self.lm.task.predict(logits, head.to(device) if head is not None else None).cpu().double().numpy()


def evaluate_bank(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset | Mapping[str, datasets.Dataset],
    head: RatingHead | None = None,
    *,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Score held-out rows with the users' own prompts.

    Args:
        interactions: held-out rows, or the splits ``train`` and ``validation``; the baselines need ``train``.
        head: the rating head; the bank's own by default.

    Returns:
        A report with the task's metrics, the number of rows and users, rows of users without a prompt, and for
        ratings, where ``train`` is given, the non-LLM baselines on the same rows.

    Raises:
        MismatchError: the bank belongs to another LLM or task.
        InteractionsError: rows are malformed, or none belongs to a user of the bank.
    """
    splits = {"validation": interactions} if isinstance(interactions, datasets.Dataset) else interactions
    if "validation" not in splits:
        raise InteractionsError(f"evaluation needs the split validation, found {', '.join(splits) or 'none'}")
    start = time.monotonic()
    held_out = HeldOut.build(lm, bank, splits["validation"], batch_size)
    predictions = held_out.predict(bank.prompts, head if head is not None else bank.head)
    users, labels = held_out.users, held_out.labels
    report: dict[str, Any] = {
        "task": lm.task.name,
        "metrics": scores(lm.task, predictions, labels, users),
        "rows": len(labels),
        "users": len(set(users)),
        "rows_without_prompt": held_out.left_out,
        "seconds": time.monotonic() - start,
    }
    if lm.task.name == "rating" and "train" in splits:
        train = check_interactions(splits["train"], lm.task)
        report["baselines"] = {
            name: {"rmse": rmse(values, labels), "mae": mae(values, labels)}
            for name, values in rating_baselines(train, held_out.rows).items()
        }
    return report
