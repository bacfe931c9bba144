"""The interface between the training loop and the module it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import RatingHead
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.progress import Progress


class TrainedModule(nn.Module):
    """A module that is trained through a frozen LLM; calling it with row numbers gives their mean loss.

    The scorer is no ``nn.Module``, so the LLM's weights are not among this module's parameters. ``state_dict()`` is
    what a checkpoint keeps.

    Attributes:
        logits: detached answer logits ``(n, answers)`` of the last forward pass in this process. None before the first
            pass and after a pass without rows.
        head: the rating head, if the task has one.
    """

    head: RatingHead | None

    def __init__(
        self,
        lm: PersonalizedLM,
        train: EncodedInteractions,
        validation: EncodedInteractions,
        args: PumaTrainingArguments,
    ) -> None:
        super().__init__()
        self.lm, self.train_rows, self.validation_rows, self.args = lm, train, validation, args
        self.logits: torch.Tensor | None = None

    @property
    def model(self) -> nn.Module:
        """The module that callbacks get as ``model``."""
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: parameters, ``lr`` and ``weight_decay``."""
        raise NotImplementedError

    def clipped_parameters(self) -> list[nn.Parameter]:
        """The parameters whose joint gradient norm is clipped to ``max_grad_norm``."""
        raise NotImplementedError

    def begin_step(self) -> None:
        """Called before the forward passes of each optimizer step."""

    def unsolve(self) -> None:
        """Undo what :meth:`solve` did, before training goes on."""

    def solve(self, done: int, progress: Progress) -> Iterator[int]:
        """Solve for what is not trained, after the last epoch, in parts of which each can be saved.

        ``done`` says how much of it was solved for before; each part yields how much is.
        """
        return iter(())

    def validation_logits(self) -> tuple[EncodedInteractions, torch.Tensor]:
        """The validation rows and their answer logits ``(N, answers)``."""
        raise NotImplementedError

    @torch.no_grad()
    def validate(self) -> float:
        """The task's loss on the validation rows, without penalties."""
        rows, logits = self.validation_logits()
        return float(self._loss(rows, logits))

    def _loss(self, rows: EncodedInteractions, logits: torch.Tensor) -> torch.Tensor:
        labels = rows.labels if rows.predictions is None else rows.predictions
        return self.lm.task.loss(logits, labels.to(logits.device), self.head, rows.probabilities)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The validation loss and the task's metrics, with the names that transformers' ``Trainer.evaluate`` uses.

        Rows without labels have only a loss, against the teacher's predictions.
        """
        rows, logits = self.validation_logits()
        loss = self._loss(rows, logits)
        if rows.predictions is not None:
            return {"eval_loss": float(loss)}
        predictions = self.lm.task.predict(logits, self.head).double().cpu().numpy()
        metrics = self.lm.task.scores(predictions, rows.labels.numpy(), [str(user) for user in rows.users.tolist()])
        known = {name: value for name, value in metrics.items() if value is not None}
        return {f"eval_{name}": float(value) for name, value in {"loss": float(loss), **known}.items()}
