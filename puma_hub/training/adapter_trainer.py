"""Training an adapter end to end through the frozen target LLM, on the task loss of the chosen users' rows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.fit import require_given, require_owners
from puma_hub.bank.join import join_banks
from puma_hub.data import check_interactions
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks.owners import ITEMS, USERS, Owners
from puma_hub.training.adapter_module import AdapterModule
from puma_hub.training.adapter_record import record_banks, record_response
from puma_hub.training.adapter_rows import adapter_rows, has_labels, has_teacher
from puma_hub.training.adapter_start import fresh_adapter, is_trained
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.defaults import ADAPTER_DEFAULTS, VALIDATION_SHARE
from puma_hub.training.gauss_newton import start_by_gauss_newton
from puma_hub.training.loop import RowCounts
from puma_hub.training.progress import Progress
from puma_hub.training.report import FLOPS_FORMULA, common_facts, forward_flops, training_facts
from puma_hub.training.sensitivity import sensitivity_flops
from puma_hub.training.state import RunState, identity_hash, tensor_hash
from puma_hub.training.teachers import require_independent_noise
from puma_hub.training.trainer import BaseTrainer, Callback, Resume

logger = logging.getLogger(__name__)


class AdapterTrainer(BaseTrainer):
    """Trains a :class:`PumaAdapter` from one or several source banks to a target LLM.

    Args:
        target_lm: the scorer of the target LLM.
        banks: the source bank, or one for each source.
        interactions: training rows of at least the chosen users. With rows from :func:`with_source_predictions`,
            or of several sources from :func:`combine_teachers`, the adapter learns from the predictions, weighted by
            ``teacher_weight``. Validation uses labels, if the rows have them.
        args: see :class:`PumaTrainingArguments`; the defaults depend on whether the adapter learns from labels or
            predictions.
        users: the chosen users, or ids of items; all of the banks by default. A ``validation_share`` of them is held
            out to choose the best epoch.
        config: the adapter's configuration; ``seed`` architecture by default. Fields that are not set are filled in
            from banks and scorer. Fields that are set have to agree with them.
        init: an adapter to start from, for example one of :func:`puma_hub.warm_start`.
        given: the target's prompts of the other kind, for a template with ``<user>`` and ``<item_prompt>``. They fill
            their slot and are not changed. Banks of items need the users' migrated bank, whose rating head the adapter
            keeps.
        callbacks: callbacks of transformers or their classes, for example ``EarlyStoppingCallback``.

    Raises:
        MismatchError: banks, config, init, given prompts or task do not belong together.
        SelectionError: no chosen user has rows.
        ConfigurationError: arguments do not fit the adapter, or a tracker of ``report_to`` is unknown.
        MissingDependencyError: a tracker's package is not installed.
    """

    kind = "adapter"

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
        given: PromptBank | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        checked = check_interactions(interactions, target_lm.task, labels=False)
        distilled = has_teacher(checked)
        _require_something_to_learn(checked, distilled, (args or PumaTrainingArguments()).teacher_weight)
        self.learns_from = "source predictions" if distilled else "labels"
        super().__init__(target_lm, _filled(args or PumaTrainingArguments(), distilled, config, init), callbacks)
        self.banks = [banks] if isinstance(banks, PromptBank) else list(banks)
        self.owners = _owners(target_lm, self.banks, given)
        self._users, prompts = join_banks(self.banks)
        self._prompts = torch.from_numpy(prompts.copy())
        self._statistics = [bank.statistics or BankStatistics.alone(bank.prompts) for bank in self.banks]
        if not any(part.spread or part.users == 1 for part in self._statistics):
            logger.warning(
                "the source bank has the same prompt for all of its %d users, so there is nothing personal to migrate; "
                "train it with more rows for each user",
                self._statistics[0].users,
            )
        self.adapter = fresh_adapter(target_lm, self.banks, self._statistics, config, init, self.args.seed, given)
        row_of = {user: row for row, user in enumerate(self._users)}
        chosen = list(dict.fromkeys(users)) if users is not None else self._users
        shape = (self.banks[0].shape[0], self.adapter.config.source_size)
        assert self.args.validation_share is not None  # filled
        share = self.args.validation_share
        seed = self.args.seed
        self._rows = adapter_rows(target_lm, checked, row_of, chosen, shape, share, seed, self.owners, given)
        train = self._rows.train
        if len(self.banks) > 1 and self._rows.teacher_prompts is not None:
            own = self._prompts[self._rows.encoded.users[: len(train)]]
            require_independent_noise(self._rows.teacher_prompts, own, [bank.shape[1] for bank in self.banks])
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.args.seed))
        self._begun_on = train.take(order[: 0 if is_trained(init) else self.args.start_rows])
        self.args.require_training(len(self._begun_on))

    @property
    def users(self) -> list[str]:
        """The users the adapter is trained on."""
        return self._rows.users

    def _module(self) -> AdapterModule:
        return AdapterModule(copy.deepcopy(self.adapter), self.lm, self._prompts, self._rows, self.args)

    def _begin(self, adapter: PumaAdapter, progress: Progress) -> None:
        rows, prompts = self._begun_on, self._rows.inputs(self._prompts.to(self.lm.device))
        targets = rows.targets(self.args.teacher_weight)
        start_by_gauss_newton(adapter, self.lm, prompts, rows, targets, self.args.gradient_batch_size, progress)

    def train(self, resume_from_checkpoint: Resume = None) -> PumaAdapter:
        """Train, and return the adapter of the best epoch, on the CPU.

        ``adapter`` is not changed, so another call gives the same result.

        Args:
            resume_from_checkpoint: see :meth:`PromptTrainer.train`.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or its run had other settings, other data or more
                epochs.
        """
        module = self._module()
        counts = RowCounts(len(self._rows.train), len(self._rows.validation))
        begin = partial(self._begin, module.adapter) if len(self._begun_on) else None
        loop = self._loop(module, counts, self._identity(), self._rows.encoded, resume_from_checkpoint, begin)
        state = loop.run()
        module.level()
        self._trained = module
        adapter = copy.deepcopy(module.adapter).cpu().eval().requires_grad_(True)
        with loop.timed("sensitivity"):
            self._record(adapter)
        self.report = self._report(state)
        loop.write_report(self.report)
        return adapter

    def _record(self, adapter: PumaAdapter) -> None:
        """Store in the adapter the facts about its source banks and about the target bank that it maps them to."""
        record_banks(adapter, self._prompts.numpy(), self._statistics)
        rows, batch_size = self._rows.train.rows, self.args.gradient_batch_size
        record_response(adapter, self.lm, rows, batch_size)

    def _identity(self) -> str:
        train = self._rows.train
        teacher = (train.predictions, train.probabilities, self._rows.teacher_prompts)
        return identity_hash(
            {
                "kind": "adapter",
                "args": self.args.identity(),
                "config": {k: v for k, v in self.adapter.config.to_dict().items() if k not in ("sources", "target")},
                "model": [self.lm.spec.fingerprint, *self.lm.dtypes],
                "start": tensor_hash(*self.adapter.state_dict().values()),
                "prompts": tensor_hash(self._prompts),
                "rows": self._rows.encoded.hashes(),
                "teacher": tensor_hash(*(part for part in teacher if part is not None)),
                "users": self.users,
            }
        )

    def _report(self, state: RunState) -> dict[str, Any]:
        rows = self._rows
        return common_facts(
            method="adapter training",
            learns_from=self.learns_from,
            owners=self.owners.name,
            architecture=self.adapter.config.architecture,
            parameters=sum(parameter.numel() for parameter in self.adapter.parameters()),
            start_rows=len(self._begun_on),
            samples_until_best_epoch=len(self._begun_on) + round(len(rows.train) * state.best_epoch),
            **training_facts(state, len(rows.train), self.args.seed),
            users={
                "train": len(self.users),
                "validation": len(torch.unique(rows.validation.users)),
                "without_rows": rows.without_rows,
                "bank": len(self._users),
            },
            flops=self._flops(state),
            flops_formula=FLOPS_FORMULA + "; the adapter itself: 6 * its weights for each soft token",
            answer_texts=list(self.lm.answer_texts),
            truncated_rows=rows.encoded.rows.truncated,
            prefix_cache=self.lm.cache_report.to_dict(),
        )

    def _flops(self, state: RunState) -> dict[str, float]:
        """Estimated FLOPs of the parts of a run; see ``FLOPS_FORMULA``."""
        length, rows = self.banks[0].shape[0], self._rows
        both, prefixes = forward_flops(self.lm, rows.encoded.rows, length)
        validation = forward_flops(self.lm, rows.validation.rows, length)[0]
        weights = sum(parameter.numel() for parameter in self.adapter.network.parameters())
        own = 2.0 * weights * length * len(rows.train)
        epoch = 2 * (both - validation) + 3 * own
        start = 2 * forward_flops(self.lm, self._begun_on.rows, length)[0]
        start += validation if len(self._begun_on) and self.args.eval_strategy != "no" else 0.0
        sensitivity = sensitivity_flops(self.lm, rows.train.rows, length)
        once = start + sensitivity + prefixes
        return {
            "total": state.passes * epoch + state.evaluations * validation + once,
            "until_best_epoch": state.best_epoch * epoch + state.best_evaluation * validation + once,
            "start": start,
            "sensitivity": sensitivity,
            "prefix_cache": prefixes,
        }


def _owners(lm: PersonalizedLM, banks: Sequence[PromptBank], given: PromptBank | None) -> Owners:
    """Whose prompts the banks hold.

    Raises:
        MismatchError: some hold users' and some items', or ``given`` does not go with them.
    """
    if not banks:
        return USERS  # refused where banks are joined
    for bank in banks[1:]:
        require_owners(bank, banks[0].owners, "aggregation")
    owners = banks[0].owners
    if given is not None:
        require_given(given, lm, "training")
        require_owners(given, owners.others, "training, given prompts")
    elif owners is ITEMS:
        raise MismatchError(
            "prompts of items are read along with those of users; give the bank of users on the target LLM as given="
        )
    return owners


def _require_something_to_learn(rows: datasets.Dataset, taught: bool, teacher_weight: float) -> None:
    """Refuse rows without labels where labels are to be learnt.

    Raises:
        InteractionsError: there are none.
    """
    if not has_labels(rows) and not (taught and teacher_weight == 1.0):
        why = f"teacher_weight={teacher_weight} learns from them too" if taught else "nothing else is there to learn"
        raise InteractionsError(
            f"the rows have no column 'label', and {why}; add labels, or what with_source_predictions adds and "
            "teacher_weight=1"
        )


def _filled(
    args: PumaTrainingArguments, distilled: bool, config: PumaConfig | None, init: PumaAdapter | None
) -> PumaTrainingArguments:
    """``args`` with defaults for learning from predictions (``distilled``) or labels, and for the adapter's start.

    Raises:
        ConfigurationError: ``start_rows`` is given, but the adapter has no linear branch to solve for.
    """
    linear = getattr(init.config if init is not None else config, "architecture", "seed") != "paper"
    if args.start_rows and not linear:
        raise ConfigurationError(
            f"start_rows={args.start_rows} needs an adapter with a linear branch, architecture 'seed' or 'linear'; "
            "leave it out"
        )
    solved_for = linear and args.start_rows != 0
    name = "labels" if not distilled else "source predictions" if solved_for else "source predictions, no start"
    defaults = {**ADAPTER_DEFAULTS[name], "validation_share": VALIDATION_SHARE}
    return args.filled({**defaults, "num_train_epochs": 4} if is_trained(init) else defaults)
