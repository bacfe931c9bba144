"""The adapter at the start of training.

It is standardised on its banks. Its base is the target's embedding of the word "user", its head the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.errors import MismatchError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks.owners import USERS
from puma_hub.training.adapter_config import whole_config


def is_trained(init: PumaAdapter | None) -> bool:
    """Whether an adapter has been trained. The base of a warm start is 0: it maps offsets only."""
    return init is not None and bool(init.base.any())


def fresh_adapter(
    lm: PersonalizedLM,
    banks: Sequence[PromptBank],
    statistics: Sequence[BankStatistics],
    config: PumaConfig | None,
    init: PumaAdapter | None,
    seed: int,
    given: PromptBank | None = None,
) -> PumaAdapter:
    """A new adapter from ``banks`` to ``lm``, or a copy of ``init``, as it is before the first step.

    Args:
        statistics: of each bank.
        seed: of the network's random weights.
        given: the target's users, for banks of items: these have the users' rating head, which is not trained.

    Raises:
        MismatchError: banks, config, init and task do not belong together.
        ConfigurationError: ``config`` and ``init`` differ in shape.
    """
    if any(bank.provenance.task not in (None, lm.task) for bank in banks):
        raise MismatchError("the bank was made for another task than the target's scorer; give both the same task")
    whole = whole_config(lm, banks, config, init)
    torch.manual_seed(seed)
    adapter = PumaAdapter(whole)
    if init is not None:
        adapter.load_state_dict(init.state_dict())
    else:
        network: Any = adapter.network
        network.start_linear()
    mean = torch.from_numpy(np.concatenate([part.mean for part in statistics], axis=-1))
    if is_trained(init):
        adapter.recenter(mean)
        if init is not None and init.config.owners != whole.owners:
            _start_base(adapter, lm, banks)  # offsets go from LLM to LLM alike, the base is that of the other slot
    else:
        adapter.standardize(mean, [part.spread for part in statistics], lm.embedding_rms)
        _start_base(adapter, lm, banks)
        _start_head(adapter, banks)
    if adapter.head is not None and given is not None and given.owners is USERS and given.head is not None:
        adapter.head.load_state_dict(given.head.state_dict())
        adapter.head.requires_grad_(False)
    _record_sensitivity(adapter, statistics)
    return adapter


def _start_base(adapter: PumaAdapter, lm: PersonalizedLM, banks: Sequence[PromptBank]) -> None:
    with torch.no_grad():
        word = lm.word_prompt(adapter.config.prompt_length, banks[0].owners.slot)
        adapter.base.copy_(word / lm.embedding_rms)


def _start_head(adapter: PumaAdapter, banks: Sequence[PromptBank]) -> None:
    heads = [bank.head for bank in banks if bank.head is not None]
    if adapter.head is not None and heads:
        adapter.head.load_state_dict(heads[0].state_dict())  # paper: the source's head is trained along


def _record_sensitivity(adapter: PumaAdapter, statistics: Sequence[BankStatistics]) -> None:
    """Store the banks' sensitivities side by side, with 0 for a bank that records none."""
    parts = [np.zeros_like(part.mean) if part.sensitivity is None else part.sensitivity for part in statistics]
    with torch.no_grad():
        adapter.input_sensitivity.copy_(torch.from_numpy(np.concatenate(parts, axis=-1)))
