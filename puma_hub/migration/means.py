"""The mean prompt and the sensitivity by which a bank's prompts are standardised when they are migrated.

Two trainings end in different bases: their means lie much farther apart than the users of one training do. What is a
user's own is the offset from the mean of the training, so each bank is standardised by its own mean.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.alignment import own_reference
from puma_hub.bank import PromptBank, Provenance
from puma_hub.bank.arrays import as_float32
from puma_hub.bank.reference import Reference
from puma_hub.bank.statistics import LEAST_USERS
from puma_hub.errors import BankError, ConfigurationError, MismatchError

logger = logging.getLogger(__name__)

Mean: TypeAlias = "PromptBank | np.ndarray | Literal['adapter']"
"""A bank of the same training, its mean prompt ``(l, d)``, or ``"adapter"``: that of the adapter's source bank."""

WAYS = (
    "give mean=: a bank of the same training, its mean prompt (length, hidden size), or 'adapter' for prompts that "
    "were trained together with the adapter's source bank"
)


def given_reference(adapter: PumaAdapter, number: int, mean: Mean) -> Reference:
    """The reference that the caller gives for source ``number``; an array has no sensitivity.

    Raises:
        ConfigurationError: ``mean`` is neither a bank, nor an array, nor ``"adapter"``.
        MismatchError: it has another shape, or is a bank of another LLM.
        BankError: it is not finite, or the bank's statistics are not known.
    """
    if isinstance(mean, str):
        if mean != "adapter":
            raise ConfigurationError(f"mean={mean!r} is not a mean; {WAYS}")
        return own_reference(adapter, number)
    spec = adapter.config.sources[number]
    if isinstance(mean, PromptBank):
        spec.require_same(mean.model, "the bank given as mean=")
        if mean.statistics is None:
            raise BankError(f"the bank given as mean= has {len(mean)} user(s) and no statistics; {WAYS}")
        return mean.statistics.reference
    try:
        array = as_float32(mean, "the mean prompt")
    except BankError as error:
        raise ConfigurationError(f"mean= cannot be {type(mean).__name__} ({error}); {WAYS}") from error
    expected = (adapter.config.prompt_length, spec.hidden_size)
    if array.shape != expected:
        raise MismatchError(f"the mean prompt must be {expected} for {spec.model_id}, got {array.shape}; {WAYS}")
    if not np.isfinite(array).all():
        raise BankError(f"the mean prompt holds NaN or infinite values; {WAYS}")
    return Reference(array)


def reference_of_bank(adapter: PumaAdapter, number: int, bank: Provenance) -> Reference:
    """The reference of the training that the bank of this provenance comes from.

    Raises:
        BankError: it is not known, or was computed over too few users.
    """
    trained, known = adapter.config.trained_on, bank.statistics
    if trained is None:  # nothing was standardised
        return own_reference(adapter, number)
    source = trained.sources[number]
    if known is None or (not known.is_reliable and known.base_id != source.base_id):
        found = f"{known.users} user(s)" if known is not None else "none"
        raise BankError(
            f"the mean of this bank's training is needed, over {LEAST_USERS} users or more, and its provenance has "
            f"that of {found}: every training has another mean; {WAYS}"
        )
    if known.base_id != source.base_id:
        ours = own_reference(adapter, number)
        away = float(np.sqrt(np.mean(np.square(known.mean - ours.mean, dtype=np.float64))))
        logger.info(
            "bank %d is of another training than the adapter's source bank (their means lie %.1f spreads apart); it is "
            "standardised by its own mean",
            number + 1,
            away / max(source.spread, 1e-12),
        )
        if known.sensitivity is None or ours.sensitivity is None:
            whose = f"bank {number + 1}" if known.sensitivity is None else "the adapter's source bank"
            logger.warning(
                "%s records no sensitivity, so users' offsets may become too small or too large; see "
                "puma_hub.with_sensitivity",
                whose,
            )
    return known.reference


def given_references(adapter: PumaAdapter, mean: Any) -> list[Reference]:
    """The references that the caller gives, one for each source of the adapter in its order.

    An adapter that was not trained does not standardise, so the mean has no effect.

    Raises:
        ConfigurationError: there is not one for each source.
        MismatchError, BankError: see :func:`given_reference`.
    """
    given = _one_each(mean, len(adapter.config.sources))
    references = [given_reference(adapter, number, one) for number, one in enumerate(given)]
    if adapter.config.trained_on is None:
        return [own_reference(adapter, number) for number in range(len(references))]
    return references


def references_of(adapter: PumaAdapter, banks: Sequence[Provenance], mean: Any = None) -> list[Reference]:
    """The reference by which each bank is standardised, in the adapter's source order.

    Args:
        banks: the provenance of each.
        mean: for one bank, or a list with one for each bank; None takes it from the bank's provenance.

    Raises:
        ConfigurationError: there is not one for each bank.
        MismatchError, BankError: see :func:`given_reference` and :func:`reference_of_bank`.
    """
    given = _one_each(mean, len(banks))
    return [
        reference_of_bank(adapter, number, bank) if one is None else given_reference(adapter, number, one)
        for number, (bank, one) in enumerate(zip(banks, given))
    ]


def _one_each(mean: Any, sources: int) -> list[Any]:
    for_all = mean is None or isinstance(mean, str)
    given = list(mean) if isinstance(mean, (list, tuple)) else [mean] * (sources if for_all else 1)
    if len(given) != sources:
        raise ConfigurationError(f"{len(given)} mean(s) for {sources} source(s); give a list with one for each")
    return given
