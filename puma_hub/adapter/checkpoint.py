"""Strict loading: a damaged checkpoint is an error, never a half-initialised adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from puma_hub.errors import CheckpointError, PumaHubError, without_secrets


@contextmanager
def clear_errors(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what is raised for a bad checkpoint into CheckpointError, and what the Hub's client raises into HubError."""
    from puma_hub.hub.errors import translated

    try:
        yield
    except PumaHubError:
        raise
    except Exception as error:
        from_hub = translated(error, f"load an adapter from {source}")
        if from_hub is not None:
            raise from_hub from error
        # Files of others make transformers, safetensors and torch raise errors of nearly every kind.
        reason = without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
        raise CheckpointError(
            f"cannot load an adapter from {source}: {reason}; check the name, or save or download the adapter again"
        ) from error


def require_complete(adapter: nn.Module, info: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless every tensor was in the checkpoint, with its shape and finite values."""
    faults = [
        f"{kind.replace('_keys', '')} {sorted(str(key) for key in info[kind])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    if faults:
        raise CheckpointError(
            f"the adapter at {source} does not fit its config: {'; '.join(faults)}; save or download it again"
        )
    broken = [name for name, tensor in adapter.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"the adapter at {source} holds NaN or infinite values in {broken}; train or download it again"
        )


@torch.no_grad()
def align(adapter: nn.Module) -> None:
    """Copy the weights out of the mapped file, where they lie at odd addresses.

    Matrix products take other paths for those, which end in other last bits: a loaded adapter would not give exactly
    the prompts of the one that was saved.
    """
    for tensor in (*adapter.parameters(), *adapter.buffers()):
        tensor.data = tensor.data.clone()
