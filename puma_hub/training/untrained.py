"""Adapters that are used without training: a map from the vocabulary, on the bank's own scale."""

from __future__ import annotations

import datasets

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.fit import require_owners
from puma_hub.data.rows import require_dataset
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks.owners import USERS
from puma_hub.training.adapter_record import record_banks, record_response
from puma_hub.training.adapter_start import fresh_adapter, is_trained


def untrained_adapter(
    target_lm: PersonalizedLM,
    bank: PromptBank,
    init: PumaAdapter,
    interactions: datasets.Dataset | None = None,
    *,
    batch_size: int = 256,
) -> PumaAdapter:
    """Return a warm start as an adapter that migrates banks at once: where training would begin, and not a step on.

    It is a baseline that needs no training. Users' offsets go through the map of :func:`puma_hub.warm_start`. What all
    users share is the target's embedding of the word "user", and the rating head is the source bank's.

    Args:
        target_lm: the scorer of the target LLM.
        bank: the source bank, whose mean and spread the adapter is standardised by.
        init: the warm start, of one source.
        interactions: rows whose texts the target's sensitivity is taken over, as :func:`puma_hub.with_sensitivity`
            does; labels are not used. Without them, chains from here on do not correct offsets for it.

    Raises:
        ConfigurationError: ``init`` has been trained.
        MismatchError: bank, ``init``, and the scorer's LLM, task or template do not belong together, or the bank is of
            items; an adapter of users migrates these, see :func:`puma_hub.training.item_base`.
        InteractionsError: there are no rows.
        NotFiniteError: gradients are NaN or infinite.
    """
    if is_trained(init):
        raise ConfigurationError("init has been trained already; use it as it is, or give one of puma_hub.warm_start")
    require_owners(bank, USERS, "an adapter without training")
    statistics = [bank.statistics or BankStatistics.alone(bank.prompts)]
    adapter = fresh_adapter(target_lm, [bank], statistics, None, init, seed=0).cpu().eval()
    record_banks(adapter, bank.prompts, statistics)
    if interactions is not None:
        rows = require_dataset(interactions)
        if not len(rows):
            raise InteractionsError("there are no rows to take the sensitivity over; give some, or leave them out")
        encoded = target_lm.encode(rows.select_columns(target_lm.template.columns(rows.column_names)), bank.shape[0])
        record_response(adapter, target_lm, encoded, batch_size)
    return adapter
