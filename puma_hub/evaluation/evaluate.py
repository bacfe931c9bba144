"""Evaluating a bank's prompts on held-out rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.bank.filling import filled_slot, mean_prompt, without_prompt
from puma_hub.bank.fit import require_owners, require_scorer
from puma_hub.bank.users import user_list
from puma_hub.data import check_interactions, of_users
from puma_hub.data.biases import offsets_of
from puma_hub.data.held_out import TrainedRows, refuse_trained_rows
from puma_hub.data.rows import numbers, require_dataset, texts
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.evaluation.baselines import baseline_predictions
from puma_hub.scorer import EncodedRows, FilledSlot, PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.scorer.finite import require_finite
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import ITEMS, USERS


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of a bank's users, ready to be scored with any prompts for these users.

    ``items``: the bank whose prompts fill the slot of items, if any.
    """

    lm: PersonalizedLM
    bank: PromptBank
    head: RatingHead | None
    rows: datasets.Dataset
    left_out: int
    batch_size: int
    trained_on: int = 0
    items: PromptBank | None = None

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
        items: PromptBank | None = None,
    ) -> HeldOut:
        """Keep the rows of ``users``, by default of all users of the bank, and count the others.

        ``head`` is the bank's by default; a copy of it is moved to the LLM's device. ``train`` are the training rows of
        the same split. They show which rows are repeated, and are no sign that the bank was trained on held-out rows.

        Raises:
            MismatchError: a bank belongs to another LLM, template or task, or holds prompts of the wrong kind, or the
                head belongs to another task.
            UnknownUserError: some of ``users`` are not in the bank.
            InteractionsError: no row is left, or the bank was trained on them and ``allow_training_rows`` is false.
            ConfigurationError: the batch size is not at least 1.
        """
        require_owners(bank, USERS, "evaluation")
        if items is not None:
            require_owners(items, ITEMS, "evaluation, items")
        require_scorer(bank, lm, "evaluation", items)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        head = head if head is not None else bank.head
        if head is not None and head.answers != len(lm.task.answers):
            raise MismatchError(
                f"the rating head is for {head.answers} answers, the task has {len(lm.task.answers)}; give the head of "
                "this task"
            )
        wanted = bank.user_ids if users is None else users_of(bank, users)
        if isinstance(rows, datasets.Dataset) and not len(rows):
            raise InteractionsError("no row is held out; a user needs at least two rows, and the last is held out")
        rows = check_interactions(rows, lm.task)
        kept = of_users(rows, wanted)
        if not len(kept):
            whom = "a user of the bank" if users is None else f"one of the {len(wanted)} users"
            raise InteractionsError(f"none of the {len(rows)} rows belongs to {whom}; check the user ids")
        known = check_interactions(train) if train is not None and len(train) else None
        seen = TrainedRows.of_all(one.provenance.trained_rows for one in (bank, items) if one is not None)
        trained_on = refuse_trained_rows(kept, seen, known, allow_training_rows)
        return cls(lm, bank, head, kept, len(rows) - len(kept), batch_size, trained_on, items)

    @cached_property
    def users(self) -> list[str]:
        """The user of each row."""
        return texts(self.rows, "user_id")

    @cached_property
    def labels(self) -> np.ndarray:
        return numbers(self.rows, "label")

    @cached_property
    def offsets(self) -> np.ndarray:
        """The known part ``(N,)`` of each label, which predictions have too."""
        return offsets_of(self.rows, self.lm.task)

    @cached_property
    def own(self) -> np.ndarray:
        """Predictions ``(N,)`` with the users' own prompts."""
        return self.predict(self.bank.prompts, self.bank.rows(self.users))

    @cached_property
    def with_mean_item(self) -> np.ndarray:
        """Predictions ``(N,)`` with the users' own prompts and one mean prompt for all items."""
        filled = self._encoded.filled
        assert filled is not None and self.items is not None
        mean = torch.from_numpy(mean_prompt(self.items).copy())[None]
        alike = FilledSlot(filled.slot, mean, np.zeros_like(filled.of_row))
        rows = replace(self._encoded, filled=alike)
        return self.offsets + self._predicted(rows, self.bank.prompts, self.bank.rows(self.users))

    @cached_property
    def _own_head(self) -> RatingHead | None:
        return copy.deepcopy(self.head).to(self.lm.device) if self.head is not None else None

    @cached_property
    def _encoded(self) -> EncodedRows:
        names = self.lm.template.columns(self.rows.column_names)
        filled = filled_slot(self.items, self.rows) if self.items is not None else None
        return self.lm.encode(self.rows.select_columns(names), self.bank.shape[0], filled)

    @property
    def truncated(self) -> int:
        """The number of rows whose item text was shortened."""
        return self._encoded.truncated

    def rows_of(self, user_ids: Collection[str]) -> np.ndarray:
        """The row numbers of some users."""
        wanted = set(user_ids)
        return np.flatnonzero([user in wanted for user in self.users])

    def predict(
        self, prompts: np.ndarray, prompt_of: Sequence[int] | np.ndarray, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """Predictions of the rows ``numbers``, by default of all. Row i is scored with ``prompts[prompt_of[i]]``.

        Raises:
            NotFiniteError: some predictions are NaN or infinite.
        """
        if numbers is None:
            return self.offsets + self._predicted(self._encoded, prompts, prompt_of)
        return self.offsets[numbers] + self._predicted(self._encoded.take(numbers), prompts, prompt_of)

    def _predicted(self, rows: EncodedRows, prompts: np.ndarray, prompt_of: Sequence[int] | np.ndarray) -> np.ndarray:
        device = self.lm.device
        logits = predict_rows(
            self.lm,
            rows,
            torch.from_numpy(np.array(prompts)).to(device),
            torch.as_tensor(np.asarray(prompt_of, dtype=np.int64)),
            self.batch_size,
        )
        with torch.no_grad():
            predictions = self.lm.task.predict(logits, self._own_head)
            require_finite(predictions, "predictions", self.lm.dtype)
            return predictions.cpu().double().numpy()


def users_of(bank: PromptBank, users: Sequence[str]) -> list[str]:
    """``users``, each once.

    Raises:
        UnknownUserError: some are not in the bank.
    """
    chosen = list(dict.fromkeys(user_list(users)))
    bank.rows(chosen)
    return chosen


def evaluate_bank(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset | Mapping[str, datasets.Dataset],
    head: RatingHead | None = None,
    *,
    batch_size: int = 256,
    allow_training_rows: bool = False,
    items: PromptBank | None = None,
) -> dict[str, Any]:
    """Score held-out rows with the users' own prompts.

    Args:
        interactions: held-out rows, or the splits ``train`` and ``validation``; the baselines need ``train``.
        head: the rating head; the bank's by default.
        allow_training_rows: allow rows that the bank was trained on. The errors are then too small.
        items: the items' prompts, for a template with ``<item_prompt>``; the bank's mean for items without a prompt.

    Returns:
        A report with the task's metrics and the numbers of rows and users. It counts rows of users without a prompt,
        and rows that the bank was trained on (``rows_trained_on``, an estimate for more than 1,024 training rows). With
        ``train`` it has the metrics of the baselines without an LLM on the same rows. A metric that is not defined for
        these rows is None, such as ``auc`` with labels of one class. ``notes`` say why. With
        ``items``, ``item_prompts`` has the number of rows whose item has no prompt, and the metrics with the mean
        prompt of all items.

    Raises:
        MismatchError: a bank belongs to another LLM, template or task, or holds prompts of the wrong kind, or the head
            belongs to another task.
        InteractionsError: rows are malformed, none belongs to a user of the bank, or the bank was trained on them.
        NotFiniteError: the LLM's answers to some rows are NaN or infinite.
    """
    splits = interactions if isinstance(interactions, Mapping) else {"validation": require_dataset(interactions)}
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
        items=items,
    )
    return evaluate_rows(held_out, train)


def evaluate_rows(held_out: HeldOut, train: datasets.Dataset | None = None) -> dict[str, Any]:
    """The report of :func:`evaluate_bank`; the baselines need the training rows."""
    start = time.monotonic()
    task, users, labels = held_out.lm.task, held_out.users, held_out.labels
    metrics = task.scores(held_out.own, labels, users)
    report: dict[str, Any] = {
        "task": task.name,
        "metrics": metrics,
        "notes": task.undefined(metrics),
        "rows": len(labels),
        "users": len(set(users)),
        "counts": task.counts(labels, users),
        "rows_without_prompt": held_out.left_out,
        "rows_trained_on": held_out.trained_on,
        "own_source_bank": held_out.bank.provenance.details.get("own_source_bank"),
        "truncated_rows": held_out.truncated,
        "answer_texts": list(held_out.lm.answer_texts),
        "seconds": time.monotonic() - start,
    }
    if held_out.items is not None:
        report["item_prompts"] = {
            "rows_without_prompt": without_prompt(held_out.items, held_out.rows),
            "metrics_with_mean": task.scores(held_out.with_mean_item, labels, users),
        }
    if train is not None:
        report["baselines"] = {
            name: task.scores(values, labels, users)
            for name, values in baseline_predictions(check_interactions(train, task), held_out.rows).items()
        }
    return report
