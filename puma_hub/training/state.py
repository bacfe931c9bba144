"""The state of a run in one safetensors file, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from puma_hub.errors import CheckpointError
from puma_hub.storage import new_file

STATE_FILE = "training_state.safetensors"


@dataclass
class RunState:
    """Where a run stands. ``losses`` holds one mean training loss an epoch, ``metrics`` one validation value.

    Epoch 0 is the start, where one is solved for.
    """

    begun: bool = False
    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_metric: float | None = None
    losses: list[float] = field(default_factory=list)
    metrics: list[float | None] = field(default_factory=list)
    epoch_loss: float = 0.0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("prefix_cache", "start", "training", "validation", "sensitivity"), 0.0)
    )
    rows: dict[str, int] = field(default_factory=lambda: {"training": 0, "validation": 0})
    finished: bool = False


def identity_hash(parts: Mapping[str, Any]) -> str:
    """Hash what decides a run's result, so that a state is never continued with other settings or data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tensor_hash(*tensors: torch.Tensor) -> str:
    """Hash the values of tensors on any device."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    states = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{name}": torch.as_tensor(value) for i, state in states.items() for name, value in state.items()
    }


def save_state(
    folder: str | Path,
    identity: str,
    state: RunState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, torch.Tensor],
) -> None:
    """Write the state; a reader sees the previous file or this one."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()} | _optimizer_tensors(optimizer)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with new_file(Path(folder) / STATE_FILE) as path:
        save_file(tensors, path, metadata={"identity": identity, "state": json.dumps(asdict(state))})


def load_state(
    folder: str | Path, identity: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[RunState, dict[str, torch.Tensor]] | None:
    """Restore module and optimizer; return the state and the best weights, or None where there is no file.

    Raises:
        CheckpointError: the file is damaged or belongs to another run.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to start again") from error
    if metadata.get("identity") != identity:
        raise CheckpointError(
            f"{path} belongs to a run with other settings or data; use another folder, or delete it to start again"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {"module": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    module.load_state_dict(parts["module"])
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return RunState(**json.loads(metadata["state"])), parts["best"]
