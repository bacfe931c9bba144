"""Where serving looks users' prompts up: a bank, or a keyed store."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.bank.fit import HoldsPrompts
from puma_hub.bank.keyed_files import DESCRIPTION_FILE
from puma_hub.bank.keyed_store import KeyedStore
from puma_hub.errors import ConfigurationError
from puma_hub.tasks import RatingHead


class Prompts(HoldsPrompts, Protocol):
    """What prompts are looked up in, by user."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def head(self) -> RatingHead | None: ...
    def __getitem__(self, user_id: str) -> np.ndarray: ...
    def __contains__(self, user_id: object) -> bool: ...
    def __len__(self) -> int: ...


def open_prompts(
    prompts: Prompts | str | os.PathLike[str], token: str | bool | None = None, revision: str | None = None
) -> Prompts:
    """The prompts themselves, or those of a folder or repository.

    Raises:
        ConfigurationError: something else was given.
        StorageError, CheckpointError, HubError: they cannot be read.
    """
    if isinstance(prompts, (str, os.PathLike)):
        if os.path.isfile(os.path.join(prompts, DESCRIPTION_FILE)):
            return KeyedStore(prompts)
        return PromptBank.from_pretrained(prompts, token=token, revision=revision)
    if not hasattr(prompts, "provenance") or not hasattr(prompts, "__getitem__"):
        raise ConfigurationError(
            f"prompts are a PromptBank, a keyed store, a folder or a repository, got {type(prompts).__name__}"
        )
    return prompts
