"""An adapter as a module for the training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import reduce
from torch import nn

from puma_hub.adapter import PumaAdapter
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.tasks import RatingHead
from puma_hub.training.adapter_rows import AdapterRows
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.gauss_newton import trained_head
from puma_hub.training.module import TrainedModule

_MEMORY = 0.9  # decay of the running sum of residuals from step to step: it covers about ten steps


class AdapterModule(TrainedModule):
    """The adapter, with its head.

    Args:
        source_prompts: ``(users, l, s)``. Validation rows are scored with them.
    """

    residuals: torch.Tensor

    def __init__(
        self,
        adapter: PumaAdapter,
        lm: PersonalizedLM,
        source_prompts: torch.Tensor,
        rows: AdapterRows,
        args: PumaTrainingArguments,
    ) -> None:
        super().__init__(lm, rows.train, rows.validation, args)
        self.adapter = adapter
        # Running sums of prediction minus label, and of the variance of labels, which is 1 a row for ratings.
        self.register_buffer("residuals", torch.zeros(2))
        self.to(lm.device)
        # Plain attributes: parameters and buffers would be saved in every checkpoint.
        self.source_prompts = source_prompts.to(lm.device)
        self.inputs = rows.inputs(self.source_prompts)

    @property
    def head(self) -> RatingHead | None:  # type: ignore[override]
        return self.adapter.head

    @property
    def trained_head(self) -> RatingHead | None:
        return trained_head(self.adapter)

    @property
    def model(self) -> nn.Module:
        return self.adapter

    def begin_step(self) -> None:
        """Decay the sums of earlier steps."""
        self.residuals.mul_(_MEMORY)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        lm, args = self.lm, self.args
        self.adapter.train()
        batch = self.train_rows.take(numbers)
        offsets = self.adapter.offsets(self.inputs[batch.users.to(self.inputs.device)])
        prompts = self.adapter.output_scale * (self.adapter.base + offsets)
        logits, labels = lm.logits(prompts, batch.rows), batch.labels.to(lm.device)
        self.logits = logits.detach()
        loss = lm.task.loss(logits, labels, self.adapter.head)
        if batch.predictions is not None:
            weight, predictions = args.teacher_weight, batch.predictions.to(lm.device)
            distillation = lm.task.loss(logits, predictions, self.adapter.head, batch.probabilities)
            loss = weight * distillation + (1.0 - weight) * loss
        if self.trained_head is not None:
            with torch.no_grad():
                predictions = lm.task.predict(logits, self.trained_head)
                errors = predictions - batch.targets(args.teacher_weight).to(lm.device)
                step = torch.stack([errors.sum(), lm.task.variance(predictions).sum()])
                self.residuals.add_(reduce(step))  # over all processes
        return loss + (args.offset_penalty or 0.0) * offsets.square().sum((1, 2)).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        args = self.args
        network = list(self.adapter.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": network, "lr": args.learning_rate, "weight_decay": args.weight_decay}
        ]
        groups.append({"params": [self.adapter.base], "lr": args.base_learning_rate})
        if self.trained_head is not None:
            groups.append({"params": list(self.trained_head.parameters()), "lr": args.head_learning_rate})
        return groups

    def clipped_parameters(self) -> list[nn.Parameter]:
        return list(self.adapter.network.parameters())

    @torch.no_grad()
    def validation_logits(self) -> tuple[EncodedInteractions, torch.Tensor]:
        """The rows of the validation users, and their answer logits ``(N, answers)``."""
        self.adapter.eval()
        users, rows = torch.unique(self.validation_rows.users, return_inverse=True)
        prompts = self.adapter(self.source_prompts[users.to(self.source_prompts.device)]).target_prompts
        own = replace(self.validation_rows, users=rows)
        return own, predict_rows(self.lm, own.rows, prompts, own.users, self.args.per_device_eval_batch_size)

    def level(self) -> None:
        """Correct the head's last bias: the mean prediction of the last steps becomes the mean of their labels.

        After a few dozen steps the two can still differ. Where predictions are not the head's output it is a Newton
        step.
        """
        total, variance = self.residuals.tolist()
        if variance and self.trained_head is not None:
            self.trained_head.rescale(-total / variance)
