"""Applying an adapter to whole banks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import map_prompts
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.join import join_banks
from puma_hub.data.held_out import TrainedRows
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.migration.means import references_of

logger = logging.getLogger(__name__)


def check_banks(adapter: PumaAdapter, banks: Sequence[PromptBank]) -> None:
    """Raise MismatchError unless there is one fitting bank for each source of ``adapter``, in its order."""
    sources = adapter.config.sources
    if len(banks) != len(sources):
        names = ", ".join(spec.model_id for spec in sources)
        raise MismatchError(f"this adapter takes {len(sources)} bank(s), for {names}; got {len(banks)}")
    for number, (spec, bank) in enumerate(zip(sources, banks), 1):
        spec.require_same(bank.model, f"bank {number} of {len(banks)}")
        if bank.shape[0] != adapter.config.prompt_length:
            raise MismatchError(
                f"this adapter takes prompts of length {adapter.config.prompt_length}, bank {number} has length "
                f"{bank.shape[0]}"
            )


def migrate(
    adapter: PumaAdapter, bank: PromptBank | Sequence[PromptBank], *, batch_size: int = 4096, mean: Any = None
) -> PromptBank:
    """Migrate the prompts of a bank, or of one bank for each source, to the adapter's target LLM.

    Prompts are standardised by the mean of their own training, which the bank's provenance records: a bank of another
    training than the adapter's source bank has another base. Offsets are corrected for the ``sensitivity`` of the
    bank's statistics, so that they move the mean prediction as far as they did at their own base. All migrated prompts
    stand on the adapter's target base. The rating head was trained for that base, so the result carries the adapter's
    head. For several sources the banks are joined on ``user_id`` in the adapter's source order; users missing from one
    bank are left out, and counted in the log and in the provenance.

    Args:
        mean: needed if the provenance records no mean: a bank of the same training, its mean prompt ``(l, d)``, or
            ``"adapter"`` for prompts that were trained together with the adapter's source bank. For several sources a
            list of these.

    Raises:
        MismatchError: a bank is of another LLM or prompt length, or prompts lie absurdly far from their mean.
        BankError: banks share no user, the mean of a bank is not known, or the result is not finite.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
    banks = [bank] if isinstance(bank, PromptBank) else list(bank)
    check_banks(adapter, banks)
    references = references_of(adapter, banks, mean)
    users, prompts, missing = join_banks(banks)
    if missing:
        logger.warning("%d users are missing from at least one bank and were left out", missing)
    migrated, distances = map_prompts(adapter, prompts, batch_size, references)
    say_distances(adapter, distances)
    return migrated_bank(adapter, banks, users, migrated, missing)


def say_distances(adapter: PumaAdapter, distances: np.ndarray) -> None:
    """Log how many prompts are farther from their mean than any the adapter was trained on."""
    trained = adapter.config.trained_on
    if trained is None:
        return
    far = int((distances > trained.farthest * (1 + 1e-4)).sum())
    if far:
        logger.warning(
            "%d of %d prompts lie farther from their mean (up to %.2f spreads) than any of the adapter's source bank "
            "(%.2f); see how these users do before you rely on them",
            far,
            len(distances),
            float(distances.max()),
            trained.farthest,
        )


def migrated_bank(
    adapter: PumaAdapter, banks: Sequence[PromptBank], users: list[str], prompts: np.ndarray, missing: int
) -> PromptBank:
    """The target bank of migrated ``prompts``, with what is known of its making."""
    config, trained = adapter.config, adapter.config.trained_on
    history = [step for bank in banks for step in (*bank.provenance.history, bank.provenance.as_step())]
    details: dict[str, Any] = {
        "adapter": {"sources": [spec.model_id for spec in config.sources], "architecture": config.architecture},
        "users_left_out": missing,
    }
    if config.answer_texts is not None:
        details["answer_texts"] = config.answer_texts
    known: dict[str, Any] = {}
    if trained is not None:
        ours = [bank.base_id for bank in trained.sources]
        theirs = [bank.statistics.base_id if bank.statistics else None for bank in banks]
        details["own_source_bank"] = ours == theirs
        # Of the adapter's target bank, whose base these prompts have: a few users of another bank move no mean.
        mean, sensitivity = (
            tensor.detach().cpu().float().numpy() for tensor in (adapter.output_mean, adapter.output_sensitivity)
        )
        known["statistics"] = BankStatistics(
            mean, trained.target_spread, trained.target_users, sensitivity=sensitivity if sensitivity.any() else None
        )
    head = None
    if adapter.head is not None:
        details["head"] = "the adapter's"
        head = copy.deepcopy(adapter.head).float().cpu().eval().requires_grad_(False)
    return PromptBank.from_arrays(
        users,
        prompts,
        config.require_pair(),
        head=head,
        template=config.template,
        task=config.scored_task,
        made_by="migrated",
        details=details,
        history=tuple(history),
        trained_rows=TrainedRows.of_all(bank.provenance.trained_rows for bank in banks),
        **known,
    )
