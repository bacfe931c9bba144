"""Engines: what streams source prompts through an adapter.

An engine takes ``(adapter, batches, references, *, options)``. ``batches`` are source prompts, float32
``(n, l, d_source)``; ``references`` are what they are counted from, a :class:`puma_hub.bank.reference.Reference` for
each source. For each batch, in the same order, it yields target prompts, float32 ``(n, l, d_target)``, and their
distances from the mean, float64 ``(n,)``, as :func:`puma_hub.adapter.mapping.map_batch` does. It may read ahead, but
never keeps all batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import map_batch
from puma_hub.bank.reference import Reference


def in_torch(
    adapter: PumaAdapter, batches: Iterable[np.ndarray], references: Sequence[Reference]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One batch after another, on the adapter's device."""
    for batch in batches:
        yield map_batch(adapter, batch, references)
