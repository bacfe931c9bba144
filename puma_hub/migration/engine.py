"""Engines: what streams source prompts through an adapter.

An engine takes ``(adapter, batches, references, *, options)``. ``batches`` are source prompts, float32
``(n, l, d_source)``; ``references`` are what they are counted from, a :class:`puma_hub.bank.reference.Reference` for
each source. For each batch, in the same order, it yields target prompts, float32 ``(n, l, d_target)``, and their
distances from the mean, float64 ``(n,)``, as :func:`puma_hub.adapter.mapping.map_batch` does. It may read ahead, but
never keeps all batches.

An engine of files, which is marked by :func:`engine_of_files`, takes ``(writer, numbers, advanced, *, options)``
instead, where ``writer`` is a :class:`puma_hub.migration.file_writer.FileWriter`, and has the files of these numbers
written, in any order and in other processes. It calls ``advanced`` with the number of users that were written since the
last call. Whoever runs it again has what is missing written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import PromptMap, map_batch
from puma_hub.bank.reference import Reference


class WritesFiles(Protocol):
    """Writes the files of a migration by their numbers; see :class:`puma_hub.migration.file_writer.FileWriter`."""

    def write(self, number: int, advanced: Advanced) -> None: ...


Advanced: TypeAlias = Callable[[int], object]
FileEngine: TypeAlias = Callable[[WritesFiles, Sequence[int], Advanced], None]
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., None])
_AT_ONCE = 1024
"""Prompts that one thread maps together: few enough for a core's cache to hold what the layers make of them."""
_AHEAD = 2
"""Batches that are read before the first of them has to be done."""


def engine_of_files(function: _FunctionT) -> _FunctionT:
    """Mark a function as an engine of files."""
    function.takes_files = True  # type: ignore[attr-defined]
    return function


def is_file_engine(function: Callable[..., Any]) -> bool:
    return bool(getattr(function, "takes_files", False))


def one_by_one(writer: WritesFiles, numbers: Sequence[int], advanced: Advanced) -> None:
    """Write the files in this process."""
    for number in numbers:
        writer.write(number, advanced)


def in_torch(
    adapter: PumaAdapter, batches: Iterable[np.ndarray], references: Sequence[Reference]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """On the adapter's device. On a CPU each core maps prompts of its own while batches are read and written.

    Several threads in one small matrix product wait for one another.
    """
    if adapter.device.type != "cpu":
        for batch in batches:
            yield map_batch(adapter, batch, references)
        return
    was_training = adapter.training
    mapped = PromptMap(adapter.eval(), references)
    # Threads are counted by each thread for itself, so this changes the pool's own only.
    pool = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[list[Future[tuple[np.ndarray, np.ndarray]]]] = deque()
    try:
        for batch in batches:
            waiting.append(
                [pool.submit(mapped, batch[at : at + _AT_ONCE]) for at in range(0, max(1, len(batch)), _AT_ONCE)]
            )
            if len(waiting) > _AHEAD:
                yield _joined(waiting.popleft())
        while waiting:
            yield _joined(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        adapter.train(was_training)


def _joined(parts: list[Future[tuple[np.ndarray, np.ndarray]]]) -> tuple[np.ndarray, np.ndarray]:
    found = [part.result() for part in parts]
    if len(found) == 1:
        return found[0]
    prompts, distances = zip(*found)
    return np.concatenate(prompts), np.concatenate(distances)
