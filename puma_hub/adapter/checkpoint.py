"""Strict loading: a damaged checkpoint is an error, never a half-initialised adapter."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from puma_hub.errors import CheckpointError, PumaHubError, StorageError, first_line, shown
from puma_hub.storage import read_json

_SHOWN = 3


@contextmanager
def clear_errors(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of a bad checkpoint into CheckpointError, and errors of the Hub's client into HubError."""
    from puma_hub.hub.failures import translated

    try:
        yield
    except PumaHubError:
        raise
    except Exception as error:
        from_hub = translated(error, f"load an adapter from {source}")
        if from_hub is not None:
            raise from_hub from error
        # Files of others make transformers, safetensors and torch raise errors of nearly every kind.
        raise CheckpointError(
            f"cannot load an adapter from {source}: {first_line(error)}; check the name, or save or download the "
            "adapter again"
        ) from error


def require_fitting(adapter: nn.Module, weights: Path, source: str | os.PathLike[str]) -> None:
    """Check the names and shapes of weights in a file before memory is taken for what they lack.

    Args:
        adapter: on the meta device.

    Raises:
        CheckpointError: some are missing, unexpected, or of another shape.
    """
    with safe_open(weights, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a dict
    expected = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    both = found.keys() & expected.keys()
    info = {
        "missing_keys": expected.keys() - found.keys(),
        "unexpected_keys": found.keys() - expected.keys(),
        "mismatched_keys": [name for name in both if found[name] != expected[name]],
    }
    _require_no_faults(info, source)


def require_complete(adapter: nn.Module, info: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless every tensor was in the checkpoint, with its shape and finite values."""
    _require_no_faults(info, source)
    broken = [name for name, tensor in adapter.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"the adapter at {source} holds NaN or infinite values in {_some(broken)}; train or download it again"
        )


def _require_no_faults(info: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    faults = [
        f"{kind.replace('_keys', '')} {_some(info[kind])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    if faults:
        raise CheckpointError(
            f"the adapter at {source} does not fit its config: {'; '.join(faults)}; save or download it again"
        )


def _some(names: Collection[object]) -> str:
    few = sorted(map(str, names))
    return ", ".join([*map(shown, few[:_SHOWN]), *(["..."] if len(few) > _SHOWN else [])])


def require_place(folder: str | os.PathLike[str]) -> None:
    """Refuse to write an adapter over the files of another model.

    Raises:
        StorageError: ``folder`` holds some.
    """
    config, weights = Path(folder, "config.json"), Path(folder, "model.safetensors")
    if config.is_file():
        try:
            kind = read_json(config).get("model_type")
        except StorageError:
            kind = None
        ours = kind == "puma_adapter"
    else:
        ours = not weights.is_file() or _is_adapter(weights)
    if not ours:
        raise StorageError(f"{folder} holds another model, whose files would be replaced; choose another folder")


def _is_adapter(weights: Path) -> bool:
    """Whether these are an adapter's weights: a killed process may have left them without a config."""
    try:
        with safe_open(weights, framework="pt") as file:
            return {"base", "input_mean", "input_scale", "output_scale"} <= set(file.keys())
    except (SafetensorError, OSError):
        return False


@torch.no_grad()
def align(adapter: nn.Module) -> None:
    """Copy the weights out of the memory-mapped file, where they are not aligned.

    Matrix products of unaligned tensors may differ in the last bits. A loaded adapter would then not give exactly the
    prompts of the one that was saved.
    """
    for tensor in (*adapter.parameters(), *adapter.buffers()):
        tensor.data = tensor.data.clone()
