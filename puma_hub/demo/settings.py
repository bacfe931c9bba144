"""What the demo runs on, and in which dtype the LLMs compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from puma_hub.errors import ConfigurationError

SOURCE_MODEL, TARGET_MODEL, DATA = "smollm2-135m", "gemma-3-270m", "movielens-100k"
FULL = 300
"""Users of the full report, whose rows are of all items."""
DEFAULT_USERS = 60
_POPULAR = 200
DTYPES = ("auto", "float32", "bfloat16")
LLMS = ("wheels", "hub")


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on.

    Args:
        users: drawn from the data with ``seed``.
        rows_per_user: the most recent rows of each.
        share: of the users, on whom the adapter trains.
        adapter_rows: the adapter's training rows, drawn of its users and the items, without labels; at most half as
            many as the users have.
        seed: of everything random.
        out: where adapter, banks, report and picture go.
        models: ``wheels`` (from the package registry) or ``hub`` (the same two models' own repositories).
        dtype: of the LLMs; ``auto`` is bfloat16 where the processor computes in it.

    Raises:
        ConfigurationError: a value is out of range.
    """

    users: int = DEFAULT_USERS
    rows_per_user: int = 40
    share: float = 0.18
    adapter_rows: int = 2048
    seed: int = 42
    out: str = "puma-demo"
    models: str = "wheels"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.users < 10:
            raise ConfigurationError(f"the demo needs at least 10 users, got {self.users}")
        if self.models not in LLMS:
            raise ConfigurationError(f"models come from 'wheels' or 'hub', got {self.models!r}")
        if self.dtype not in DTYPES:
            raise ConfigurationError(f"dtype must be {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def items(self) -> int | None:
        """So many items, those with the most ratings, have rows in the demo; None for all of them.

        An LLM reads each item's text once, whoever rated it. With few users that is most of the work, unless they
        rated the same items.
        """
        return None if self.users >= FULL else _POPULAR

    def selected(self, users: int) -> int:
        """How many of ``users`` the adapter trains on."""
        return max(1, int(users * self.share))


def compute_dtype(name: str) -> torch.dtype:
    """The LLMs' dtype; ``auto`` asks the processor."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if torch.cuda.is_available():
        return torch.bfloat16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32
