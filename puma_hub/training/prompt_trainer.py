"""Training soft prompts of users or items on one LLM: makes the source bank, and the retraining baseline."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.fit import given_fact, require_given
from puma_hub.bank.provenance import MEAN_ANSWERS
from puma_hub.data import check_interactions
from puma_hub.data.held_out import TrainedRows
from puma_hub.data.rows import codes, column, take_rows
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import ITEMS, USERS
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.calibration import SLOPE
from puma_hub.training.defaults import PROMPT_DEFAULTS, VALIDATION_SHARE
from puma_hub.training.encoded_rows import EncodedInteractions, last_of_each_user
from puma_hub.training.extension import Frozen, bank_hash, extended, filled_for, frozen, frozen_for_items
from puma_hub.training.loop import RowCounts
from puma_hub.training.posterior import STEPS
from puma_hub.training.posterior_module import PosteriorModule
from puma_hub.training.prompt_module import PromptModule
from puma_hub.training.report import FLOPS_FORMULA, common_facts, forward_flops, training_facts
from puma_hub.training.sensitivity import sensitivity_at, sensitivity_flops
from puma_hub.training.state import RunState, identity_hash
from puma_hub.training.trainer import BaseTrainer, Callback, Resume
from puma_hub.training.variances import LATEST, VARIANCES


class PromptTrainer(BaseTrainer):
    """Trains one soft prompt for each user, and the rating head, on a frozen LLM; with users' prompts, items'.

    Args:
        lm: the scorer.
        interactions: training rows (the ``train`` split); the last ``validation_share`` of each user's rows
            chooses the best epoch.
        args: see :class:`PumaTrainingArguments`; the defaults depend on ``prompt_method``.
        bank: an existing bank of this LLM to add users to. The users of the rows are trained with the bank's base and
            head. New users are added, and users of the bank get new prompts. Base, head and all other prompts are not
            changed. In a bank of the independent method there is no base, so the new prompts start at random. By
            default there is no validation, and the weights of the last epoch are kept.
        given: prompts of the other kind, for a template with ``<user>`` and ``<item_prompt>``. They fill their slot and
            are not changed. Given users' prompts, those of the rows' items are trained around the word "item", with the
            users' rating head and by default in closed form. Given items' prompts, those of users are trained. Without
            them the word "item" fills the slot of items.
        callbacks: callbacks of transformers or their classes, for example ``EarlyStoppingCallback``.

    Raises:
        InteractionsError: rows are malformed or labels outside the task.
        MismatchError: a bank is of another LLM, template, task or prompt length, or ``bank`` and ``given`` do not hold
            one users' and one items' prompts.
        ConfigurationError: the bank was trained by another method, or a tracker of ``report_to`` is unknown.
        MissingDependencyError: a tracker's package is not installed.
    """

    kind = "prompts"

    def __init__(
        self,
        lm: PersonalizedLM,
        interactions: datasets.Dataset,
        args: PumaTrainingArguments | None = None,
        *,
        bank: PromptBank | None = None,
        given: PromptBank | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        args = args or PumaTrainingArguments()
        self.bank, self.given = bank, given
        self.owners = given.owners.others if given is not None else USERS
        if bank is not None:
            args = filled_for(bank, lm, args, given)
        elif given is not None:
            require_given(given, lm, "training")
        args = args.filled({"prompt_method": "posterior", "prompt_length": 1})
        assert args.prompt_method is not None and args.prompt_length is not None
        frozen_base = bank is not None or self.owners is ITEMS
        only_solves = args.prompt_method == "posterior" and frozen_base
        defaults = {"validation_share": VALIDATION_SHARE, **PROMPT_DEFAULTS[args.prompt_method]}
        args = args.filled(defaults | {"num_train_epochs": 0} if only_solves else defaults)
        assert args.validation_share is not None and args.prompt_length is not None
        super().__init__(lm, args, callbacks)
        if not only_solves:
            self.args.require_training()
        rows = check_interactions(interactions, lm.task)
        self.users = sorted(codes(column(rows, self.owners.column))[1])
        row_of = {user: row for row, user in enumerate(self.users)}
        encoded = EncodedInteractions.build(lm, rows, row_of, args.prompt_length, self.owners, given)
        train, validation = last_of_each_user(rows, args.validation_share, self.owners)
        self._train = encoded.take(torch.tensor(train))
        self._latest = torch.zeros(len(train), dtype=torch.bool)
        self._latest[last_of_each_user(take_rows(rows, train), LATEST, self.owners)[1]] = True
        self._validation = encoded.take(torch.tensor(validation, dtype=torch.long))
        self._encoded = encoded
        self._trained_rows = TrainedRows.of(rows)
        self._frozen: Frozen | None = None
        if bank is not None:
            self._frozen = frozen(bank, self.users, len(train), args.prompt_method, given)
        elif given is not None and self.owners is ITEMS:
            self._frozen = frozen_for_items(lm, given, args)

    def _module(self) -> PromptModule:
        facts = self.lm, len(self.users), self._train, self._validation, self.args, self._frozen
        return PosteriorModule(*facts, self._latest) if self.args.prompt_method == "posterior" else PromptModule(*facts)

    def train(self, resume_from_checkpoint: Resume = None) -> PromptBank:
        """Train, and return the bank of the best epoch. Another call gives the same bank.

        Args:
            resume_from_checkpoint: None resumes from the checkpoint in ``output_dir`` if there is one. True requires
                one. A folder resumes from the checkpoint in that folder. False starts again and replaces a checkpoint.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or its run had other settings, other data or more
                epochs.
        """
        module = self._module()
        rows = RowCounts(len(self._train), len(self._validation), self._frozen.others if self._frozen else 0)
        loop = self._loop(module, rows, self._identity(), self._encoded, resume_from_checkpoint)
        state = loop.run()
        self._trained = module
        with torch.no_grad():
            prompts = module.user_prompts(module.offsets).cpu().numpy()
            base = None if module.base is None else (module.scale * module.base).cpu().numpy()
        statistics = BankStatistics.of_training(prompts, base)
        # Independent prompts share no base and lie far from their mean: a sensitivity there says nothing about them.
        if statistics is not None and base is not None and self.bank is None:
            with loop.timed("sensitivity"):
                statistics = replace(statistics, sensitivity=self._sensitivity(module.head, statistics.mean))
        self.report = self._report(state)
        loop.write_report(self.report)
        if self.bank is not None:
            facts = {key: self.report[key] for key in ("best_epoch", "rows", "seed")} | given_fact(self.given)
            return extended(self.bank, self.users, prompts, self._trained_rows, facts)
        head = None
        if module.head is not None:
            head = copy.deepcopy(module.head).cpu().eval().requires_grad_(False)
        recorded = ("method", "prompt_method", "best_epoch", "users", "rows", "seed", "answer_texts")
        details = {key: self.report[key] for key in recorded}
        details |= {**given_fact(self.given), **self._mean_answers(module)}
        if isinstance(module, PosteriorModule):
            details[VARIANCES] = dict(zip(("offset", "noise"), module.variances.tolist()))
            details[SLOPE] = module.slope.item()
        return PromptBank.from_arrays(
            self.users,
            prompts,
            self.lm.spec,
            head=head,
            template=self.lm.template.text,
            task=self.lm.task,
            made_by="trained",
            details=details,
            statistics=statistics,
            trained_rows=self._trained_rows,
            owners=self.owners.name,
        )

    def _mean_answers(self, module: PromptModule) -> dict[str, Any]:
        """The mean answer logits, for the details: where base and head are the users', those of their training."""
        if self._frozen is None:
            return {MEAN_ANSWERS: module.mean_answers()}
        assert self.given is not None  # for items
        known = self.given.provenance.details.get(MEAN_ANSWERS)
        return {} if known is None else {MEAN_ANSWERS: known}

    def _sensitivity(self, head: RatingHead | None, mean: np.ndarray) -> np.ndarray:
        prompt = torch.from_numpy(mean.copy())
        return sensitivity_at(self.lm, self._train.rows, prompt, head, self.args.gradient_batch_size)

    def _identity(self) -> str:
        return identity_hash(
            {
                "kind": "prompts",
                "args": self.args.identity(),
                "model": [self.lm.spec.fingerprint, *self.lm.dtypes],
                "template": self.lm.template.text,
                "task": self.lm.task.to_dict(),
                "rows": self._encoded.hashes(),
                "users": self.users,
                "bank": bank_hash(self.bank) if self.bank is not None else None,
                "given": bank_hash(self.given) if self.given is not None else None,
            }
        )

    def _report(self, state: RunState) -> dict[str, Any]:
        length = self.args.prompt_length
        assert length is not None  # filled
        train, prefixes = forward_flops(self.lm, self._train.rows, length)
        validation = forward_flops(self.lm, self._validation.rows, length)[0]
        takes = self.bank is None and self.args.prompt_method != "independent"
        sensitivity = sensitivity_flops(self.lm, self._train.rows, length) if takes else 0.0
        solving = self._solving_passes * 2 * train
        once = prefixes + sensitivity + solving
        return common_facts(
            method="prompt training",
            prompt_method=self.args.prompt_method,
            **training_facts(state, len(self._train), self.args.seed),
            owners=self.owners.name,
            users=len(self.users),
            samples_until_best_epoch=round(len(self._train) * (state.best_epoch + self._solving_passes)),
            **self._bank_facts(),
            flops={
                "total": state.passes * 2 * train + state.evaluations * validation + once,
                "until_best_epoch": state.best_epoch * 2 * train + state.best_evaluation * validation + once,
                "solving": solving,
                "sensitivity": sensitivity,
                "prefix_cache": prefixes,
            },
            flops_formula=FLOPS_FORMULA,
            answer_texts=list(self.lm.answer_texts),
            truncated_rows=self._encoded.rows.truncated,
            prefix_cache=self.lm.cache_report.to_dict(),
        )

    @property
    def _solving_passes(self) -> float:
        """Passes over the training rows to solve for offsets; each step is checked by half a pass, forward alone."""
        return 1.5 * STEPS if self.args.prompt_method == "posterior" else 0.0

    def _bank_facts(self) -> dict[str, Any]:
        """The report's entry on the bank that users were added to."""
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
