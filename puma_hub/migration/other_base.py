"""Prompts of an adapter at another base than its own: items' by an adapter that was trained for users.

Users and items have slots of their own in a template, and the prompts in each stand around a base of their own. What an
adapter knows is how offsets go from one LLM to another, so their offsets are migrated and put around the base of the
items' slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.fit import require_owners
from puma_hub.bank.reference import Reference
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.tasks.owners import owners_of


def check_owners(adapter: PumaAdapter, banks: Sequence[PromptBank], base: Reference | None) -> None:
    """Refuse banks of items for an adapter of users, or the other way round, unless ``base`` says where they go.

    Raises:
        MismatchError: the banks hold the wrong prompts, or ``base`` is of another shape than those of the target.
        ConfigurationError: ``base`` is given for an adapter that has the right one.
    """
    owners = owners_of(adapter.config.owners)
    if base is None:
        for bank in banks:
            require_owners(bank, owners, f"this adapter was trained for prompts of {owners.name}")
        return
    for bank in banks:
        if bank.owners is owners:
            raise ConfigurationError(
                f"base= is for an adapter that was trained for other prompts; this one was for those of {owners.name}, "
                "as the bank holds: leave base out"
            )
    expected = (adapter.config.prompt_length, adapter.config.require_pair().hidden_size)
    if base.mean.shape != expected:
        raise MismatchError(f"the base must be {expected} for this adapter, got {base.mean.shape}; see item_base")


def moved(adapter: PumaAdapter, prompts: np.ndarray, base: Reference) -> np.ndarray:
    """Migrated ``prompts (n, l, d)``, float32, with their offsets from the adapter's mean put around ``base``.

    Offsets are corrected for the sensitivity there, as :mod:`puma_hub.adapter.alignment` does for those that come in:
    they move the mean prediction as far as they would around the adapter's own base.
    """
    mean, ours = (
        tensor.detach().cpu().double().numpy() for tensor in (adapter.output_mean, adapter.output_sensitivity)
    )
    offsets = prompts - mean
    if base.sensitivity is not None and ours.any():
        there = base.sensitivity.astype(np.float64)
        lacking = (offsets * (ours - there)).sum((1, 2))
        offsets += lacking[:, None, None] * there / max(float(np.square(there).sum()), 1e-30)
    found: np.ndarray = (base.mean + offsets).astype(np.float32)
    return found
