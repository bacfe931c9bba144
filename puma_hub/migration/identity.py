"""What decides the result of a migration, as a hash: by it a killed migration is gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from puma_hub._version import __version__
from puma_hub.bank.reference import Reference
from puma_hub.migration.changes import Changes
from puma_hub.migration.plan import MigrationPlan


def identity_of(
    plan: MigrationPlan,
    engine: str,
    options: Mapping[str, Any],
    rows_per_shard: int,
    changes: Changes | None = None,
) -> str | None:
    """16 hexadecimal digits; None where a bank is in memory, and may be another one with the same facts next time."""
    earlier = () if changes is None else (changes.since, changes.target)
    stamps = [bank.stored.stamp for bank in (*plan.banks, *earlier)]
    return None if None in stamps else hash_of(plan, stamps, engine, options, rows_per_shard)


def hash_of(
    plan: MigrationPlan, stamps: Sequence[object], engine: str, options: Mapping[str, Any], rows_per_shard: int
) -> str:
    """16 hexadecimal digits of what decides a migration's result.

    Args:
        stamps: of the files with the source's rows; they change when the files do.
    """
    facts = {
        "version": __version__,
        "banks": [list(stamps), [bank.provenance.to_dict() for bank in plan.banks]],
        "steps": [[step.adapter.config.to_json_string(use_diff=False), dict(step.details)] for step in plan.steps],
        "engine": [engine, dict(options)],
        "rows_per_shard": rows_per_shard,
        "rounding": None if plan.rounding is None else [plan.rounding.dtype, plan.rounding.step],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode())
    for array in _arrays(plan):
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _arrays(plan: MigrationPlan) -> Iterator[np.ndarray]:
    for step in plan.steps:
        for tensor in step.adapter.state_dict().values():
            yield tensor.detach().cpu().float().numpy()
        for reference in (*step.references, *([step.base] if step.base is not None else [])):
            yield from _of_reference(reference)


def _of_reference(reference: Reference) -> Iterator[np.ndarray]:
    yield reference.mean
    yield np.zeros(0) if reference.sensitivity is None else reference.sensitivity
