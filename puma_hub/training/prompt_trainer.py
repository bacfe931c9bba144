"""Training the users' soft prompts on one LLM: the source bank, and the retraining baseline."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import reduce
from torch import nn
from torch.nn import functional as F

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.data import check_interactions
from puma_hub.data.held_out import TrainedRows
from puma_hub.data.rows import codes, column
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.tasks import RatingHead
from puma_hub.training.args import PROMPT_DEFAULTS, VALIDATION_SHARE, PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions, last_of_each_user
from puma_hub.training.extension import Frozen, bank_hash, extended, filled_for, frozen
from puma_hub.training.loop import Loop, RowCounts
from puma_hub.training.report import FLOPS_FORMULA, common_facts, forward_flops
from puma_hub.training.sensitivity import sensitivity_at, sensitivity_flops
from puma_hub.training.state import RunState, identity_hash, tensor_hash
from puma_hub.training.teacher import MEAN_ANSWERS

_MEMORY = 0.9  # of the running sum of answer logits from step to step
_PAPER_INIT = 0.1  # paper, hyperparameters: uniform(-0.1, 0.1)


class PromptModule(nn.Module):
    """The prompts of all users, and the head, as what the loop trains.

    ``shared``: prompt = scale * (base + offset of the user), loss + penalty * mean squared offset norm.
    ``independent``: one free prompt a user.

    With ``frozen``, base and head are a bank's and stay as they are. Row numbers past the training rows then stand for
    rows of the bank's other users, whose prompts stay too: a step over them alone moves what the last ones set in
    motion. So new users' prompts go through the steps they would have gone through among the others.
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
        super().__init__()
        assert args.prompt_length is not None  # filled by the trainer
        shape = (args.prompt_length, lm.hidden_size)
        generator = torch.Generator().manual_seed(args.seed)
        self.base: nn.Parameter | None
        self.shared = args.prompt_method == "shared"
        self._frozen = frozen is not None
        self.scale = lm.embedding_rms if self.shared else 1.0
        if self.shared:
            base = frozen.base if frozen is not None else lm.word_prompt(args.prompt_length)
            assert base is not None  # where there is a bank of this method
            self.base = nn.Parameter(base / self.scale, requires_grad=frozen is None)
            self.prompts = nn.Parameter(torch.zeros(users, *shape))
        else:
            self.base = None
            self.prompts = nn.Parameter((torch.rand(users, *shape, generator=generator) * 2 - 1) * _PAPER_INIT)
        self.head: RatingHead | None = None
        if frozen is not None:
            self.head = copy.deepcopy(frozen.head)
        elif lm.task.has_head:
            torch.manual_seed(args.seed)
            self.head = RatingHead(len(lm.task.answers)).start_at(float(train.labels.mean()))
        # Running sum of the answer logits, and the number of rows in it.
        self.register_buffer("answers", torch.zeros(len(lm.task.answers) + 1))
        self.logits: torch.Tensor | None = None  # of the last step
        self.dtype = lm.dtype
        self._outside = (lm, train, validation, args)  # a tuple, so that nothing of it becomes a submodule
        self.to(lm.device)

    def user_prompts(self, own: torch.Tensor) -> torch.Tensor:
        """Prompts ``(n, l, d)`` in the LLM's units, of what is the users' own."""
        return self.scale * (own if self.base is None else self.base + own)

    def own(self, users: torch.Tensor) -> torch.Tensor:
        """What is the own of the users in rows ``users (n,)``: ``(n, l, d)``, in which a user may come repeatedly."""
        # Not prompts[users]: its backward pass adds a repeated user's gradients in whatever order threads come.
        flat = F.embedding(users.to(self.prompts.device), self.prompts.flatten(1))
        return flat.unflatten(1, self.prompts.shape[1:])

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        lm, train, _, args = self._outside
        own_rows = numbers[numbers < len(train)]
        if not len(own_rows):
            self.logits = None
            return 0.0 * self.prompts.sum()
        batch = train.take(own_rows)
        own = self.own(batch.users)
        logits = lm.logits(self.user_prompts(own), batch.rows)
        self.logits = logits.detach()
        if not self._frozen:
            ones = self.logits.new_ones(len(logits), 1)
            self.answers.mul_(_MEMORY).add_(reduce(torch.cat([self.logits, ones], 1).sum(0)))  # over all processes
        loss = lm.task.loss(logits, batch.labels.to(logits.device), self.head)
        if self.shared:
            loss = loss + (args.offset_penalty or 0.0) * own.square().sum((1, 2)).mean()
        return loss * (len(own_rows) / len(numbers))

    def mean_answers(self) -> list[float]:
        """The mean answer logits of the last steps' rows."""
        return (self.answers[:-1] / self.answers[-1]).tolist()

    def parameter_groups(self) -> list[dict[str, Any]]:
        args = self._outside[3]
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
    def validate(self) -> float:
        """Loss on the validation rows, without the penalty."""
        lm, _, validation, args = self._outside
        return validation_loss(
            lm, validation, self.user_prompts(self.prompts), self.head, args.per_device_eval_batch_size
        )


def validation_loss(
    lm: PersonalizedLM, rows: EncodedInteractions, prompts: torch.Tensor, head: RatingHead | None, batch_size: int
) -> float:
    """The task's loss on ``rows`` with ``prompts (users, l, d)``."""
    logits = predict_rows(lm, rows.rows, prompts, rows.users, batch_size)
    return float(lm.task.loss(logits, rows.labels.to(logits.device), head))


class PromptTrainer:
    """Trains one soft prompt a user, and the rating head, on a frozen LLM.

    Args:
        lm: the scorer.
        interactions: training rows (the ``train`` split); the last ``validation_share`` of each user's rows
            chooses the best epoch.
        args: see :class:`PumaTrainingArguments`; defaults depend on ``prompt_method``.
        bank: prompts of this LLM that are there already. The users of the rows are then trained against the bank's base
            and head, which stay as they are, and so do all other prompts: new users are added, present ones renewed.
            A bank of the independent method has no base, so these start at random. By default all rows are
            trained on, and the last epoch counts.

    Raises:
        InteractionsError: rows are malformed or labels outside the task.
        MismatchError: the bank is of another LLM, template, task or prompt length.
        ConfigurationError: the bank was trained by another method.
    """

    def __init__(
        self,
        lm: PersonalizedLM,
        interactions: datasets.Dataset,
        args: PumaTrainingArguments | None = None,
        *,
        bank: PromptBank | None = None,
    ) -> None:
        args = args or PumaTrainingArguments()
        if bank is not None:
            args = filled_for(bank, lm, args)
        args = args.filled({"prompt_method": "shared", "prompt_length": 1, "validation_share": VALIDATION_SHARE})
        assert args.prompt_method is not None and args.prompt_length is not None and args.validation_share is not None
        self.args = args.filled(PROMPT_DEFAULTS[args.prompt_method])
        self.args.require_training()
        self.lm = lm
        self.bank = bank
        rows = check_interactions(interactions, lm.task)
        self.users = sorted(codes(column(rows, "user_id"))[1])
        row_of = {user: row for row, user in enumerate(self.users)}
        encoded = EncodedInteractions.build(lm, rows, row_of, args.prompt_length)
        train, validation = last_of_each_user(rows, args.validation_share)
        self._train = encoded.take(torch.tensor(train))
        self._validation = encoded.take(torch.tensor(validation, dtype=torch.long))
        self._encoded = encoded
        self._trained_rows = TrainedRows.of(rows)
        self._frozen = frozen(bank, self.users, len(train), args.prompt_method) if bank is not None else None
        self.report: dict[str, Any] = {}

    def train(self) -> PromptBank:
        """Train, or go on from the last checkpoint in ``output_dir``; return the bank of the best epoch.

        Another call gives the same bank.
        """
        module = PromptModule(self.lm, len(self.users), self._train, self._validation, self.args, self._frozen)
        others = self._frozen.others if self._frozen is not None else 0
        loop = Loop(
            module,
            RowCounts(len(self._train), len(self._validation), others),
            self.args,
            self._identity(),
            partial(self.lm.fill_cache, self._encoded.rows),
            "prompts",
        )
        state = loop.run()
        with torch.no_grad():
            prompts = module.user_prompts(module.prompts).cpu().numpy()
            base = None if module.base is None else (module.scale * module.base).cpu().numpy()
        statistics = BankStatistics.of_training(prompts, base)
        # Independent prompts share no base: what holds at their mean holds nowhere near them.
        if statistics is not None and base is not None and self.bank is None:
            with loop.timed("sensitivity"):
                statistics = replace(statistics, sensitivity=self._sensitivity(module.head, statistics.mean))
        self.report = self._report(state)
        loop.write_report(self.report)
        if self.bank is not None:
            facts = {key: self.report[key] for key in ("best_epoch", "rows", "seed")}
            return extended(self.bank, self.users, prompts, self._trained_rows, facts)
        told = ("method", "prompt_method", "best_epoch", "users", "rows", "seed", "answer_texts")
        details = {key: self.report[key] for key in told}
        details[MEAN_ANSWERS] = module.mean_answers()
        return PromptBank.from_arrays(
            self.users,
            prompts,
            self.lm.spec,
            head=module.head.cpu().eval().requires_grad_(False) if module.head is not None else None,
            template=self.lm.template.text,
            task=self.lm.task,
            made_by="trained",
            details=details,
            statistics=statistics,
            trained_rows=self._trained_rows,
        )

    def _sensitivity(self, head: RatingHead | None, mean: np.ndarray) -> np.ndarray:
        prompt = torch.from_numpy(mean.copy())
        return sensitivity_at(self.lm, self._train.rows, prompt, head, self.args.per_device_eval_batch_size)

    def _identity(self) -> str:
        return identity_hash(
            {
                "kind": "prompts",
                "args": self.args.identity(),
                "model": [self.lm.spec.fingerprint, str(self.lm.dtype)],
                "template": self.lm.template.text,
                "task": self.lm.task.to_dict(),
                "rows": [tensor_hash(self._encoded.labels, self._encoded.users), hash_rows(self._encoded)],
                "users": self.users,
                "bank": bank_hash(self.bank) if self.bank is not None else None,
            }
        )

    def _report(self, state: RunState) -> dict[str, Any]:
        length = self.args.prompt_length
        assert length is not None  # filled
        train, prefixes = forward_flops(self.lm, self._train.rows, length)
        validation = forward_flops(self.lm, self._validation.rows, length)[0]
        takes = self.bank is None and self.args.prompt_method == "shared"
        sensitivity = sensitivity_flops(self.lm, self._train.rows, length) if takes else 0.0
        until_best = state.best_epoch * (2 * train + validation) + prefixes + sensitivity
        return common_facts(
            method="prompt training",
            prompt_method=self.args.prompt_method,
            **training_facts(state, len(self._train), self.args.seed),
            users=len(self.users),
            **self._joined(),
            flops={
                "total": len(state.losses) * (2 * train + validation) + prefixes + sensitivity,
                "until_best_epoch": until_best,
                "sensitivity": sensitivity,
                "prefix_cache": prefixes,
            },
            flops_formula=FLOPS_FORMULA,
            answer_texts=list(self.lm.answer_texts),
            truncated_rows=self._encoded.rows.truncated,
            prefix_cache=self.lm.cache_report.to_dict(),
        )

    def _joined(self) -> dict[str, Any]:
        """What the report tells of the bank that users were added to."""
        if self.bank is None or self._frozen is None:
            return {}
        renewed = sum(user in self.bank for user in self.users)
        base = (
            "none, the prompts are independent"
            if self._frozen.base is None
            else "the mean prompt of the bank's training"
        )
        counts = {"users_before": len(self.bank), "added": len(self.users) - renewed, "renewed": renewed}
        return {"bank": {**counts, "base": base}}


def training_facts(state: RunState, rows: int, seed: int) -> dict[str, Any]:
    """What a run's state says for its report."""
    share = state.best_epoch / max(1, len(state.losses))
    running = state.seconds["training"] + state.seconds["validation"]
    return {
        "losses": state.losses,
        "validation_losses": state.metrics,
        "best_epoch": state.best_epoch,
        "epochs": len(state.losses),
        "rows": rows,
        "seconds": {
            **state.seconds,
            "total": sum(state.seconds.values()),
            "until_best_epoch": running * share
            + sum(state.seconds[part] for part in ("prefix_cache", "start", "sensitivity")),
        },
        "samples_per_second": state.rows["training"] / max(state.seconds["training"], 1e-9),
        "seed": seed,
    }


def hash_rows(rows: EncodedInteractions) -> str:
    """Hash the token ids of all rows."""
    return identity_hash({"rows": rows.rows.listed()})
