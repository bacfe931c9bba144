"""Scoring rows in all processes of ``accelerate launch`` together, each a part of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce

_TOGETHER: ContextVar[bool] = ContextVar("together", default=False)


def processes() -> PartialState:
    """The processes of ``accelerate launch``; this one alone without it."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu)  # which says that it is alone on a CPU if it is not told of the CPU


@contextmanager
def scoring_together() -> Iterator[None]:
    """Inside, the processes of ``accelerate launch`` share the rows that are scored, and each gets all logits.

    All processes have to score the same rows, in the same order of calls: one that does so alone waits for ever.
    """
    token = _TOGETHER.set(True)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def own_part() -> slice:
    """Which of some batches this process scores: all, or every ``n``-th of ``n`` processes."""
    if not _TOGETHER.get():
        return slice(None)
    state = processes()
    return slice(state.process_index, None, state.num_processes)


def sum_of_parts(logits: torch.Tensor) -> torch.Tensor:
    """Logits ``(N, answers)`` of all processes, each of which has 0 where others have scored."""
    if not _TOGETHER.get():
        return logits
    processes()
    found: torch.Tensor = reduce(logits, reduction="sum")
    return found
