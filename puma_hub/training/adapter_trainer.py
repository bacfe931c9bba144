"""Training an adapter end to end through the frozen target LLM on the task loss of some users."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import reduce
from torch import nn

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.adapter.mapping import map_prompts
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.join import join_banks
from puma_hub.data import check_interactions, of_users
from puma_hub.data.rows import codes, column
from puma_hub.errors import ConfigurationError, MismatchError, SelectionError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import RatingHead
from puma_hub.training.adapter_config import whole_config
from puma_hub.training.args import ADAPTER_DEFAULTS, VALIDATION_SHARE, PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions, some_users
from puma_hub.training.gauss_newton import start_by_gauss_newton
from puma_hub.training.loop import Loop, Progress, RowCounts
from puma_hub.training.prompt_trainer import hash_rows, training_facts, validation_loss
from puma_hub.training.report import FLOPS_FORMULA, common_facts, forward_flops
from puma_hub.training.sensitivity import sensitivity_at, sensitivity_flops
from puma_hub.training.state import RunState, identity_hash, tensor_hash
from puma_hub.training.teacher import TEACHER_COLUMNS, asked_prompts, source_predictions

logger = logging.getLogger(__name__)

_PROMPTS_AT_ONCE = 4096
_MEMORY = 0.9  # of the running sum of residuals from step to step: it looks back some ten steps


class AdapterModule(nn.Module):
    """The adapter, with its head, as what the loop trains."""

    residuals: torch.Tensor

    def __init__(
        self,
        adapter: PumaAdapter,
        lm: PersonalizedLM,
        source_prompts: torch.Tensor,
        asked: torch.Tensor | None,
        train: EncodedInteractions,
        validation: EncodedInteractions,
        args: PumaTrainingArguments,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        # Running sum of prediction minus label, and the number of rows in it.
        self.register_buffer("residuals", torch.zeros(2))
        self.logits: torch.Tensor | None = None  # of the last step
        self.dtype = lm.dtype
        self.to(lm.device)
        source_prompts = source_prompts.to(lm.device)
        self._inputs = (source_prompts if asked is None else asked.to(lm.device), source_prompts)
        self._outside = (lm, train, validation, args)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        lm, train, _, args = self._outside
        inputs, _ = self._inputs
        self.adapter.train()
        batch = train.take(numbers)
        offsets = self.adapter.offsets(inputs[batch.users.to(inputs.device)])
        prompts = self.adapter.output_scale * (self.adapter.base + offsets)
        logits, labels = lm.logits(prompts, batch.rows), batch.labels.to(lm.device)
        self.logits = logits.detach()
        loss = lm.task.loss(logits, labels, self.adapter.head)
        if batch.predictions is not None:
            weight, predictions = args.teacher_weight, batch.predictions.to(lm.device)
            taught = lm.task.loss(logits, predictions, self.adapter.head, batch.probabilities)
            loss = weight * taught + (1.0 - weight) * loss
        if self.adapter.head is not None:
            with torch.no_grad():
                errors = self.adapter.head(logits) - batch.targets(args.teacher_weight).to(lm.device)
                step = torch.stack([errors.sum(), torch.ones_like(errors).sum()])
                self.residuals.mul_(_MEMORY).add_(reduce(step))  # over all processes
        return loss + (args.offset_penalty or 0.0) * offsets.square().sum((1, 2)).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        args = self._outside[3]
        network = list(self.adapter.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": network, "lr": args.learning_rate, "weight_decay": args.weight_decay}
        ]
        groups.append({"params": [self.adapter.base], "lr": args.base_learning_rate})
        if self.adapter.head is not None:
            groups.append({"params": list(self.adapter.head.parameters()), "lr": args.head_learning_rate})
        return groups

    def clipped_parameters(self) -> list[nn.Parameter]:
        return list(self.adapter.network.parameters())

    @torch.no_grad()
    def validate(self) -> float:
        """Loss on the rows of users the adapter does not train on."""
        lm, _, validation, args = self._outside
        _, source_prompts = self._inputs
        self.adapter.eval()
        users, rows = torch.unique(validation.users, return_inverse=True)
        prompts = self.adapter(source_prompts[users.to(source_prompts.device)]).target_prompts
        own = replace(validation, users=rows)
        return validation_loss(lm, own, prompts, self.adapter.head, args.per_device_eval_batch_size)

    def level(self, head: RatingHead) -> None:
        """Set the head's last bias so that the mean prediction of the last steps is the mean of their labels.

        A few dozen steps can leave it off.
        """
        total, rows = self.residuals.tolist()
        if rows:
            head.rescale(-total / rows)


class AdapterTrainer:
    """Trains a :class:`PumaAdapter` from one or several source banks to a target LLM.

    Args:
        target_lm: the scorer of the target LLM.
        banks: the source bank, or one for each source.
        interactions: training rows of at least the chosen users. Rows from :func:`with_source_predictions` are learnt
            from the source's predictions, by ``teacher_weight``; validation rows are judged by their labels.
        args: see :class:`PumaTrainingArguments`; defaults depend on what the rows are learnt from.
        users: whom to train on; all users of the banks by default. ``validation_share`` of them choose the epoch.
        config: the adapter's configuration; ``seed`` architecture by default. What it leaves out is filled in from
            banks and scorer; what it says has to agree with them.
        init: an adapter to begin from, such as :func:`puma_hub.warm_start`'s.

    Raises:
        MismatchError: banks, config, init or task do not belong together.
        SelectionError: no chosen user has rows.
    """

    def __init__(
        self,
        target_lm: PersonalizedLM,
        banks: PromptBank | Sequence[PromptBank],
        interactions: datasets.Dataset,
        args: PumaTrainingArguments | None = None,
        *,
        users: Sequence[str] | None = None,
        config: PumaConfig | None = None,
        init: PumaAdapter | None = None,
    ) -> None:
        checked = check_interactions(interactions, target_lm.task)
        taught = any(name in checked.column_names for name in TEACHER_COLUMNS)
        self.learns_from = "source predictions" if taught else "labels"
        args = args or PumaTrainingArguments()
        linear = getattr(init.config if init is not None else config, "architecture", "seed") != "paper"
        if args.start_rows and not linear:
            raise ConfigurationError(
                f"start_rows={args.start_rows} needs an adapter with a linear branch, architecture 'seed' or 'linear'; "
                "leave it out"
            )
        trained = init is not None and bool(init.base.any())  # it has its start
        begins = linear and args.start_rows != 0
        defaults = ADAPTER_DEFAULTS[self.learns_from + ("" if begins or not taught else ", no start")]
        defaults = {**defaults, "validation_share": VALIDATION_SHARE}
        self.args = args.filled({**defaults, "num_train_epochs": 4} if trained else defaults)
        self.lm = target_lm
        self.banks = [banks] if isinstance(banks, PromptBank) else list(banks)
        self._users, prompts, _ = join_banks(self.banks)
        self._prompts = torch.from_numpy(prompts.copy())
        self._statistics = [bank.statistics or BankStatistics.alone(bank.prompts) for bank in self.banks]
        self.adapter = self._start(config, init)
        row_of = {user: row for row, user in enumerate(self._users)}
        chosen = list(dict.fromkeys(users)) if users is not None else self._users
        unknown = sum(user not in row_of for user in chosen)
        if unknown:
            raise SelectionError(
                f"{unknown} of {len(chosen)} users to train on are in no bank; select users of the bank"
            )
        rows = of_users(checked, chosen)
        present = sorted(codes(column(rows, "user_id"))[1])
        if not present:
            raise SelectionError(
                f"none of the {len(chosen)} chosen users has training rows; choose users of the interactions"
            )
        self._without_rows = len(chosen) - len(present)
        if self._without_rows:
            logger.warning(
                "%d of %d chosen users have no training rows and were left out", self._without_rows, len(chosen)
            )
        assert self.args.validation_share is not None  # filled
        train, validation = some_users(present, self.args.validation_share, self.args.seed)
        self.users = train
        parts = [of_users(rows, names) for names in (train, validation)]
        length = self.banks[0].shape[0]
        # One call for all rows, so that the prefix groups are the same however users are split.
        encoded = EncodedInteractions.build(target_lm, datasets.concatenate_datasets(parts), row_of, length)
        self._train = encoded.take(torch.arange(len(parts[0])))
        self._asked: torch.Tensor | None = None
        if taught:
            predictions, probabilities = source_predictions(parts[0], len(target_lm.task.answers))
            self._train = replace(self._train, predictions=predictions, probabilities=probabilities)
            self._asked = asked_prompts(parts[0], (length, self.adapter.config.source_size))
            if self._asked is not None:  # each row has a prompt of its own
                self._train = replace(self._train, users=torch.arange(len(parts[0])))
        self._validation = encoded.take(torch.arange(len(parts[0]), len(encoded)))
        order = torch.randperm(len(self._train), generator=torch.Generator().manual_seed(self.args.seed))
        self._begun_on = self._train.take(order[: 0 if trained else self.args.start_rows])
        self.args.require_training(len(self._begun_on))
        self._encoded = encoded
        self.report: dict[str, Any] = {}

    def _start(self, config: PumaConfig | None, init: PumaAdapter | None) -> PumaAdapter:
        """A fresh adapter, or ``init``, standardised on the banks and with the source's head."""
        if any(bank.provenance.task not in (None, self.lm.task) for bank in self.banks):
            raise MismatchError("the bank was made for another task than the target's scorer; give both the same task")
        whole = whole_config(self.lm, self.banks, config, init)
        torch.manual_seed(self.args.seed)
        adapter = PumaAdapter(whole)
        if init is not None:
            adapter.load_state_dict(init.state_dict())
        else:
            network: Any = adapter.network
            network.start_linear()
        mean = torch.from_numpy(np.concatenate([part.mean for part in self._statistics], axis=-1))
        untrained = init is None or not bool(init.base.any())  # a warm start knows offsets only
        if untrained:
            adapter.standardize(mean, [part.spread for part in self._statistics], self.lm.embedding_rms)
        else:
            adapter.recenter(mean)
        with torch.no_grad():  # 0 where a bank does not record it
            known = [part.sensitivity for part in self._statistics]
            parts = [np.zeros_like(part.mean) if one is None else one for one, part in zip(known, self._statistics)]
            adapter.input_sensitivity.copy_(torch.from_numpy(np.concatenate(parts, axis=-1)))
        if untrained:
            with torch.no_grad():
                adapter.base.copy_(self.lm.word_prompt(whole.prompt_length) / self.lm.embedding_rms)
        heads = [bank.head for bank in self.banks if bank.head is not None]
        if adapter.head is not None and heads and untrained:
            adapter.head.load_state_dict(heads[0].state_dict())  # paper: the source's head is trained along
        return adapter

    def _begin(self, adapter: PumaAdapter, progress: Progress) -> None:
        rows, prompts = self._begun_on, (self._prompts if self._asked is None else self._asked).to(self.lm.device)
        targets = rows.targets(self.args.teacher_weight)
        at_once = self.args.per_device_eval_batch_size
        start_by_gauss_newton(adapter, self.lm, prompts, rows, targets, at_once, progress)

    def train(self) -> PumaAdapter:
        """Train, or go on from the last checkpoint in ``output_dir``; return the adapter of the best epoch, on the CPU.

        ``adapter`` stays where training starts, so another call gives the same.
        """
        adapter = copy.deepcopy(self.adapter)
        data = (self._prompts, self._asked, self._train, self._validation)
        module = AdapterModule(adapter, self.lm, *data, self.args)
        loop = Loop(
            module,
            RowCounts(len(self._train), len(self._validation)),
            self.args,
            self._identity(),
            partial(self.lm.fill_cache, self._encoded.rows),
            "adapter",
            partial(self._begin, adapter) if len(self._begun_on) else None,
        )
        state = loop.run()
        if adapter.head is not None:
            module.level(adapter.head)
        adapter = adapter.cpu().eval()
        with loop.timed("sensitivity"):
            self._record(adapter)
        self.report = self._report(state)
        loop.write_report(self.report)
        return adapter

    @torch.no_grad()
    def _record(self, adapter: PumaAdapter) -> None:
        """Leave in the adapter what is known of its source banks, and of the target bank that it makes of them."""
        migrated, distances = map_prompts(adapter, self._prompts.numpy(), _PROMPTS_AT_ONCE)
        target = BankStatistics.alone(migrated)
        mean = torch.from_numpy(np.array(target.mean))
        adapter.output_mean.copy_(mean)
        at_once = self.args.per_device_eval_batch_size
        with torch.enable_grad():
            sensitivity = sensitivity_at(self.lm, self._train.rows, mean, adapter.head, at_once)
        adapter.output_sensitivity.copy_(torch.from_numpy(sensitivity))
        sources = tuple(SourceBank(part.base_id, part.spread, part.users) for part in self._statistics)
        adapter.config.trained_on = TrainedOn(sources, float(distances.max()), target.spread, target.users)

    def _identity(self) -> str:
        teacher = (self._train.predictions, self._train.probabilities, self._asked)
        return identity_hash(
            {
                "kind": "adapter",
                "args": self.args.identity(),
                "config": {k: v for k, v in self.adapter.config.to_dict().items() if k not in ("sources", "target")},
                "model": [self.lm.spec.fingerprint, str(self.lm.dtype)],
                "start": tensor_hash(*self.adapter.state_dict().values()),
                "prompts": tensor_hash(self._prompts),
                "rows": [tensor_hash(self._encoded.labels, self._encoded.users), hash_rows(self._encoded)],
                "teacher": tensor_hash(*(part for part in teacher if part is not None)),
                "users": self.users,
            }
        )

    def _report(self, state: RunState) -> dict[str, Any]:
        length = self.banks[0].shape[0]
        train, prefixes = forward_flops(self.lm, self._encoded.rows, length)
        validation = forward_flops(self.lm, self._validation.rows, length)[0]
        train -= validation
        weights = sum(parameter.numel() for parameter in self.adapter.network.parameters())
        own = 2.0 * weights * length * len(self._train)
        epoch = 2 * train + 3 * own + validation
        start = 2 * forward_flops(self.lm, self._begun_on.rows, length)[0]
        start += validation if len(self._begun_on) else 0.0
        sensitivity = sensitivity_flops(self.lm, self._train.rows, length)
        whole = start + sensitivity + prefixes
        return common_facts(
            method="adapter training",
            learns_from=self.learns_from,
            architecture=self.adapter.config.architecture,
            parameters=sum(parameter.numel() for parameter in self.adapter.parameters()),
            start_rows=len(self._begun_on),
            samples_until_best_epoch=len(self._begun_on) + len(self._train) * state.best_epoch,
            **training_facts(state, len(self._train), self.args.seed),
            users={
                "train": len(self.users),
                "validation": len(torch.unique(self._validation.users)),
                "without_rows": self._without_rows,
                "bank": len(self._users),
            },
            flops={
                "total": len(state.losses) * epoch + whole,
                "until_best_epoch": state.best_epoch * epoch + whole,
                "start": start,
                "sensitivity": sensitivity,
                "prefix_cache": prefixes,
            },
            flops_formula=FLOPS_FORMULA + "; the adapter itself: 6 * its weights a soft token",
            answer_texts=list(self.lm.answer_texts),
            truncated_rows=self._encoded.rows.truncated,
            prefix_cache=self.lm.cache_report.to_dict(),
        )
