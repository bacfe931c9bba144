"""Engines: what streams source prompts through an adapter.

An engine takes ``(adapter, batches, references, *, options)``. ``batches`` are source prompts, float32
``(n, l, d_source)``; ``references`` are what they are counted from, a :class:`puma_hub.bank.reference.Reference` for
each source. For each batch, in the same order, it yields target prompts, float32 ``(n, l, d_target)``, and their
distances from the mean, float64 ``(n,)``, as :func:`puma_hub.adapter.mapping.map_batch` does. It may read ahead, but
never keeps all batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import PromptMap, map_batch
from puma_hub.bank.reference import Reference

_AT_ONCE = 1024
"""Prompts that one thread maps together: few enough for a core's cache to hold what the layers make of them."""
_AHEAD = 2
"""Batches that are read before the first of them has to be done."""


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
