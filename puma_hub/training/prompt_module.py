"""The prompts of all users as a module for the training loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate.utils import reduce
from torch import nn
from torch.nn import functional as F

from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.tasks import RatingHead
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.extension import Frozen
from puma_hub.training.module import TrainedModule

_MEMORY = 0.9  # decay of the running sum of answer logits from step to step
_PAPER_INIT = 0.1  # the paper's hyperparameters: uniform(-0.1, 0.1)


class PromptModule(TrainedModule):
    """The prompts of all users, and the head.

    ``shared``: prompt = scale * (base + offset of the user); the loss includes penalty * mean squared offset norm.
    ``independent``: one free prompt for each user.

    With ``frozen``, base and head come from a bank and are not trained. Row numbers past the training rows stand for
    rows of the bank's other users. Their prompts are not trained, so these rows need no forward pass. In a step that
    holds only such rows the gradient is 0, and Adam's momentum alone moves the new prompts. So the new users take the
    same steps as in joint training.
    """

    answers: torch.Tensor

    def __init__(
        self,
        lm: PersonalizedLM,
        users: int,
        train: EncodedInteractions,
        validation: EncodedInteractions,
        args: PumaTrainingArguments,
        frozen: Frozen | None = None,
    ) -> None:
        super().__init__(lm, train, validation, args)
        assert args.prompt_length is not None  # filled by the trainer
        shape = (args.prompt_length, lm.hidden_size)
        generator = torch.Generator().manual_seed(args.seed)
        self.base: nn.Parameter | None
        self.shared = args.prompt_method != "independent"
        self._frozen = frozen is not None
        self.scale = lm.embedding_rms if self.shared else 1.0
        if self.shared:
            base = frozen.base if frozen is not None else lm.word_prompt(args.prompt_length)
            assert base is not None  # a bank of the shared method has one
            self.base = nn.Parameter(base / self.scale, requires_grad=frozen is None)
            self.prompts = nn.Parameter(torch.zeros(users, *shape))
        else:
            self.base = None
            self.prompts = nn.Parameter((torch.rand(users, *shape, generator=generator) * 2 - 1) * _PAPER_INIT)
        self.head = None
        if frozen is not None:
            self.head = copy.deepcopy(frozen.head)
        elif lm.task.has_head:
            torch.manual_seed(args.seed)
            self.head = RatingHead(len(lm.task.answers)).start_at(float(lm.task.link(train.labels.mean())))
        # Running sum of the answer logits, and the number of rows in it.
        self.register_buffer("answers", torch.zeros(len(lm.task.answers) + 1))
        self.to(lm.device)

    @property
    def offsets(self) -> torch.Tensor:
        """The users' own parameters ``(users, l, d)``, which their prompts are made of."""
        return self.prompts

    def user_prompts(self, own: torch.Tensor) -> torch.Tensor:
        """Prompts ``(n, l, d)`` in the LLM's units, from the users' own parameters ``(n, l, d)``."""
        return self.scale * (own if self.base is None else self.base + own)

    def own(self, users: torch.Tensor) -> torch.Tensor:
        """The parameters ``(n, l, d)`` of ``users (n,)``: offsets (``shared``) or whole prompts (``independent``).

        A user may be repeated.
        """
        # Not prompts[users]: its backward pass adds a repeated user's gradients in an order that varies with threads.
        flat = F.embedding(users.to(self.prompts.device), self.prompts.flatten(1))
        return flat.unflatten(1, self.prompts.shape[1:])

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        own_rows = numbers[numbers < len(self.train_rows)]
        if not len(own_rows):
            self.logits = None
            return 0.0 * self.prompts.sum()
        batch = self.train_rows.take(own_rows)
        own = self.own(batch.users)
        logits = self.lm.logits(self.user_prompts(own), batch.rows)
        self.logits = logits.detach()
        if not self._frozen:
            ones = self.logits.new_ones(len(logits), 1)
            self.answers.add_(reduce(torch.cat([self.logits, ones], 1).sum(0)))  # over all processes
        loss = self.lm.task.loss(logits, batch.labels.to(logits.device), self.head)
        if self.shared:
            loss = loss + (self.args.offset_penalty or 0.0) * own.square().sum((1, 2)).mean()
        return loss * (len(own_rows) / len(numbers))

    def begin_step(self) -> None:
        """Decay the sums of earlier steps."""
        if not self._frozen:
            self.answers.mul_(_MEMORY)

    def mean_answers(self) -> list[float]:
        """The mean answer logits of the last steps' rows."""
        return (self.answers[:-1] / self.answers[-1]).tolist()

    def parameter_groups(self) -> list[dict[str, Any]]:
        args = self.args
        decay = 0.0 if self.shared else args.weight_decay
        groups = [{"params": [self.prompts], "lr": args.learning_rate, "weight_decay": decay}]
        if self._frozen:
            return groups
        if self.base is not None:
            groups.append({"params": [self.base], "lr": args.base_learning_rate})
        if self.head is not None:
            groups.append({"params": list(self.head.parameters()), "lr": args.head_learning_rate})
        return groups

    def clipped_parameters(self) -> list[nn.Parameter]:
        return [] if self.shared else [self.prompts]

    @torch.no_grad()
    def validation_logits(self) -> tuple[EncodedInteractions, torch.Tensor]:
        rows, prompts = self.validation_rows, self.user_prompts(self.offsets)
        return rows, predict_rows(self.lm, rows.rows, prompts, rows.users, self.args.per_device_eval_batch_size)
