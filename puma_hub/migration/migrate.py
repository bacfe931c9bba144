"""Applying an adapter to whole banks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.join import join_banks
from puma_hub.errors import BankError, ConfigurationError, MismatchError

logger = logging.getLogger(__name__)

# Matrix products of few rows take other paths, which end in other last bits; with this many, a prompt becomes the
# same bits alone and among others.
_LEAST_ROWS = 32


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


@torch.no_grad()
def map_prompts(adapter: PumaAdapter, prompts: np.ndarray, batch_size: int) -> np.ndarray:
    """Map source prompts ``(N, l, d_source)`` to float32 ``(N, l, d_target)`` on the adapter's device.

    On a CPU a prompt's bits do not depend on the prompts beside it, nor on the batch size.

    Raises:
        BankError: the result is not finite.
    """
    was_training = adapter.training
    adapter.eval()
    target = adapter.config.require_pair()
    result = np.empty((len(prompts), adapter.config.prompt_length, target.hidden_size), dtype=np.float32)
    for start in range(0, len(prompts), batch_size):
        part = torch.from_numpy(np.array(prompts[start : start + batch_size])).to(adapter.device)
        padded = torch.cat([part, part.new_zeros(max(0, _LEAST_ROWS - len(part)), *part.shape[1:])])
        result[start : start + len(part)] = adapter(padded).target_prompts[: len(part)].float().cpu().numpy()
    adapter.train(was_training)
    if not np.isfinite(result).all():
        raise BankError("the adapter gave NaN or infinite prompts; it is damaged or these prompts are not its source's")
    return result


def migrate(adapter: PumaAdapter, bank: PromptBank | Sequence[PromptBank], *, batch_size: int = 4096) -> PromptBank:
    """Migrate the prompts of a bank, or of one bank for each source, to the adapter's target LLM.

    For several sources the banks are joined on ``user_id`` in the adapter's source order; users missing from
    one bank are left out, counted in the log and in the provenance.

    Raises:
        MismatchError: a bank is of another LLM or prompt length.
        BankError: banks share no user, or the result is not finite.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
    banks = [bank] if isinstance(bank, PromptBank) else list(bank)
    check_banks(adapter, banks)
    users, prompts, missing = join_banks(banks)
    if missing:
        logger.warning("%d users are missing from at least one bank and were left out", missing)
    return migrated_bank(adapter, banks, users, map_prompts(adapter, prompts, batch_size), missing)


def migrated_bank(
    adapter: PumaAdapter, banks: Sequence[PromptBank], users: list[str], prompts: np.ndarray, missing: int
) -> PromptBank:
    """The target bank of migrated ``prompts``, with what is known of its making."""
    config = adapter.config
    history = [step for bank in banks for step in (*bank.provenance.history, bank.provenance.as_step())]
    details = {
        "adapter": {"sources": [spec.model_id for spec in config.sources], "architecture": config.architecture},
        "users_left_out": missing,
    }
    head = None
    if adapter.head is not None:
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
    )
