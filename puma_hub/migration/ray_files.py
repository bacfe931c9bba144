"""Migrating the files of a bank on a Ray cluster, whose machines share a disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from puma_hub import errors
from puma_hub.errors import ConfigurationError, MissingDependencyError, PumaHubError
from puma_hub.migration.engine import Advanced, WritesFiles, engine_of_files

_TRIES = 10


@engine_of_files
def in_ray(
    writer: WritesFiles,
    numbers: Sequence[int],
    advanced: Advanced,
    *,
    address: str | None = None,
    processes: int = 0,
) -> None:
    """Write files by Ray Data: each of a pool of actors holds the adapter and writes one file after another.

    Ray starts actors anew that die, and gives their file to another one. A file appears when it is whole, so no user is
    lost or written twice.

    Args:
        address: of the cluster, as ``ray.init`` takes it; by default one that runs here, or a new one on this machine.
        processes: actors at once, each on one core; by default as many as the cluster has cores.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigurationError: ``processes`` is negative.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError('the engine ray needs Ray: pip install "puma_hub[ray]"') from error
    if processes < 0:
        raise ConfigurationError(f"processes must be at least 1, or 0 for all cores, got {processes}")
    if not numbers:
        return
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    pool = min(len(numbers), processes or max(1, int(ray.cluster_resources().get("CPU", 1))))
    files: Any = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    written = files.map(
        Writing,
        fn_constructor_args=(ray.put(writer),),
        compute=ray.data.ActorPoolStrategy(size=pool),
        num_cpus=1,
        max_restarts=_TRIES,
        max_task_retries=_TRIES,
    )
    for row in written.iter_rows():
        if row["error"]:
            raise getattr(errors, row["kind"], PumaHubError)(row["error"])
        advanced(row["users"])


class Writing:
    """An actor: it holds the writer, and writes the file of a row."""

    def __init__(self, writer: Any) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        self.writer: WritesFiles = ray.get(writer) if isinstance(writer, ray.ObjectRef) else writer

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": "", "error": "", "users": 0}
        done: list[int] = []
        try:
            self.writer.write(int(row["number"]), done.append)
            told["users"] = sum(done)
        except PumaHubError as error:  # Ray would wrap it in errors of its own
            told |= {"kind": type(error).__name__, "error": str(error)}
        return row | told
