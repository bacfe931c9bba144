"""The prompt of each input: the user's, a given one, or the bank's mean prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.errors import BankError, ConfigurationError, InteractionsError, MismatchError, UnknownUserError
from puma_hub.identity import ModelSpec
from puma_hub.pipelines.array_inputs import as_array

if TYPE_CHECKING:
    from puma_hub.bank import PromptBank

UNKNOWN_USERS = ("error", "mean")


class UserPrompts:
    """Soft prompts for an LLM of ``hidden_size``: from a ``bank`` of that LLM, or given with each input (None)."""

    def __init__(self, hidden_size: int, bank: PromptBank | None) -> None:
        self.hidden_size = hidden_size
        self.bank = bank

    def find(self, item: Mapping[str, Any], unknown_users: str = "error") -> tuple[torch.Tensor, bool]:
        """The prompt ``(l, d)`` of an input with ``user_id`` or ``prompt``, and whether it is the mean prompt.

        Args:
            unknown_users: ``error``, or ``mean`` to use the bank's mean prompt for users who are not in the bank.

        Raises:
            InteractionsError: the input has neither a user nor a prompt, or both.
            UnknownUserError: the user is not in the bank.
            ConfigurationError: the input has a user, but there is no bank.
            MismatchError: the prompt has another shape.
            BankError: the prompt is malformed, or the bank is empty and has no mean.
        """
        user, prompt = item.get("user_id"), item.get("prompt")
        if (user is None) == (prompt is None):
            found = "neither" if user is None else "both"
            raise InteractionsError(f"an input needs user_id, or a prompt (length, hidden size); found {found}")
        if prompt is not None:
            return torch.from_numpy(np.array(self._given(prompt))), False
        if not isinstance(user, str):
            raise InteractionsError(f"user_id must be a string, got {type(user).__name__}; convert it with str()")
        if self.bank is None:
            raise ConfigurationError("there is no bank to look up a user in; give bank=, or give each input a prompt")
        if user in self.bank:
            return torch.from_numpy(np.array(self.bank[user])), False
        if unknown_users == "mean":
            return self.mean, True
        raise UnknownUserError(
            f"the user is not among the {len(self.bank)} users of the bank; leave the input out, or set "
            "unknown_users='mean' for the bank's mean prompt"
        )

    def _given(self, prompt: Any) -> np.ndarray:
        array = as_array(prompt)
        if array.ndim == 1 and len(array) and len(array) % self.hidden_size == 0:  # as a bank's column holds it
            array = array.reshape(-1, self.hidden_size)
        length = self.bank.shape[0] if self.bank is not None else max(1, len(array) if array.ndim else 1)
        if array.shape != (length, self.hidden_size):
            expected = length if self.bank is not None else "length"
            raise MismatchError(f"prompts must be ({expected}, {self.hidden_size}) here, got {array.shape}")
        return array

    @cached_property
    def mean(self) -> torch.Tensor:
        """The mean prompt float32 ``(l, d)`` of the bank's users; of a keyed store, that of their whole training.

        Raises:
            BankError: the bank is empty, or the store does not record the mean.
        """
        assert self.bank is not None
        if not len(self.bank):
            raise BankError("the bank is empty, so it has no mean prompt; give a bank with users")
        if not hasattr(self.bank, "batches"):  # a keyed store cannot list its users
            statistics = self.bank.provenance.statistics
            if statistics is None:
                raise BankError("the keyed store does not record the mean of its training; give the bank it is made of")
            return torch.from_numpy(np.array(statistics.mean))
        total = sum(prompts.sum(axis=0, dtype=np.float64) for _, prompts in self.bank.batches())
        return torch.from_numpy((total / len(self.bank)).astype(np.float32))


def load_banks(bank: Any, token: str | bool | None = None) -> list[PromptBank]:
    """The banks from a bank, folder or repository, or from a list of these, one for each source of an adapter.

    Raises:
        ConfigurationError: something else was given.
        StorageError, CheckpointError, HubError: a bank cannot be read.
    """
    from puma_hub.bank import PromptBank

    banks = []
    for part in bank if isinstance(bank, (list, tuple)) else [bank]:
        if isinstance(part, (str, os.PathLike)):
            part = PromptBank.from_pretrained(part, token=token)
        if not isinstance(part, PromptBank) and not _holds_prompts(part):
            raise ConfigurationError(f"bank= takes a PromptBank, a folder or a repository, got {type(part).__name__}")
        banks.append(part)
    return banks


def _holds_prompts(part: Any) -> bool:
    """Whether prompts can be looked up in it as in a bank, which is all that pipelines without an adapter do."""
    return all(hasattr(part, name) for name in ("provenance", "model", "shape", "head", "__getitem__", "__contains__"))


def load_adapter(adapter: Any, token: str | bool | None = None) -> PumaAdapter:
    """The adapter from an adapter, folder or repository.

    Raises:
        ConfigurationError: something else was given.
        CheckpointError, HubError: the adapter cannot be read.
    """
    if isinstance(adapter, (str, os.PathLike)):
        adapter = PumaAdapter.from_pretrained(adapter, token=token)
    if not isinstance(adapter, PumaAdapter):
        raise ConfigurationError(
            f"adapter= takes a PumaAdapter, a folder or a repository, got {type(adapter).__name__}"
        )
    return adapter


def bank_for(lm: ModelSpec, banks: Sequence[PromptBank], adapter: PumaAdapter | None) -> PromptBank:
    """The bank for this LLM. It is migrated unless it belongs to this LLM already.

    Raises:
        MismatchError: the bank belongs to another LLM and there is no adapter, or the adapter does not map from the
            bank to this LLM; or prompts are read along with those of items, which a pipeline does not take.
    """
    from puma_hub.bank.fit import require_alone

    for bank in banks:
        require_alone(bank, "the pipeline")
    if adapter is None:
        if len(banks) != 1:
            raise MismatchError(f"{len(banks)} banks were given without an adapter that joins them; give adapter=")
        theirs = banks[0].model
        try:
            lm.require_same(theirs, "bank")
        except MismatchError as error:
            raise MismatchError(
                f"{error}: give adapter=, the repository or folder of an adapter {theirs.model_id} -> {lm.model_id}"
            ) from None
        return banks[0]
    target: ModelSpec = adapter.config.require_pair()
    lm.require_same(target, "the adapter's target")
    if len(banks) == 1 and any(_known_same(banks[0].model, spec) for spec in (lm, target)):
        return banks[0]
    return adapter.migrate(banks if len(banks) != 1 else banks[0])


def _known_same(ours: ModelSpec, theirs: ModelSpec) -> bool:
    """Whether both are the same LLM: by fingerprint, or by name if a fingerprint is not recorded."""
    if ours.fingerprint and theirs.fingerprint:
        return ours.fingerprint == theirs.fingerprint
    return (ours.model_id, ours.hidden_size) == (theirs.model_id, theirs.hidden_size)
