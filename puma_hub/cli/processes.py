"""The processes of torchrun, or of ``accelerate launch``, all of which run the same command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What torchrun tells its processes. Accelerate goes by it too, and takes longer to import.
_LOCAL, _NUMBER, _COUNT = "LOCAL_RANK", "RANK", "WORLD_SIZE"


def count() -> int:
    """How many there are."""
    return int(os.environ[_COUNT]) if _LOCAL in os.environ and _COUNT in os.environ else 1


def number() -> int:
    """Which process this is, from 0."""
    return int(os.environ[_NUMBER]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this process writes and prints results. Only one does."""
    return number() == 0


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        from puma_hub.scorer.together import processes

        processes().wait_for_everyone()


@contextmanager
def working_together() -> Iterator[None]:
    """Inside, processes share the rows that are scored, and one shows the progress of reading and migrating."""
    if count() == 1:
        yield
        return
    import datasets

    from puma_hub.scorer.together import scoring_together

    if not is_main():
        datasets.disable_progress_bars()
    with scoring_together():
        yield
