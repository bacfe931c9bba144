"""Users' prompts as the service looks them up: those of recent users stay in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.bank.provenance import Provenance
from puma_hub.identity import ModelSpec
from puma_hub.serving.prompts import Prompts
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import Owners

KEPT_BYTES = 256 * 2**20


class ServedPrompts:
    """A bank with its most recently used prompts in memory.

    Reading one user's prompt from a bank's files takes milliseconds, as long as scoring a row does.

    Args:
        bank: it does not change. (A keyed store may, and is as fast by itself.)
        kept_bytes: of prompts in memory.
    """

    def __init__(self, bank: PromptBank, kept_bytes: int = KEPT_BYTES) -> None:
        self._prompts = bank
        length, size = bank.shape
        self._most = max(1, kept_bytes // (4 * length * size))
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        return self._prompts.shape

    @property
    def model(self) -> ModelSpec:
        return self._prompts.model

    @property
    def provenance(self) -> Provenance:
        return self._prompts.provenance

    @property
    def head(self) -> RatingHead | None:
        return self._prompts.head

    @property
    def owners(self) -> Owners:
        return self._prompts.owners

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._kept or user_id in self._prompts

    def __getitem__(self, user_id: str) -> np.ndarray:
        """The prompt of one user, float32 ``(l, d)``. Raises the errors of the bank."""
        with self._lock:
            found = self._kept.get(user_id)
            if found is not None:
                self._kept.move_to_end(user_id)
                return found
        found = self._prompts[user_id]
        with self._lock:
            self._kept[user_id] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found

    def batches(self, batch_size: int = 4096) -> Iterator[tuple[list[str], np.ndarray]]:
        """All users in batches: their ids, and their prompts float32 ``(n, l, d)``."""
        return self._prompts.batches(batch_size)


def served(prompts: Prompts) -> Prompts:
    """The prompts as the service looks them up."""
    return ServedPrompts(prompts) if isinstance(prompts, PromptBank) else prompts
