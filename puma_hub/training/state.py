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
    """Where a run stands.

    ``step`` counts optimizer steps, ``epoch`` finished epochs and ``epoch_step`` steps of the one that is under way.
    ``losses`` holds one mean training loss an epoch, ``metrics`` one validation loss, or None, for each time the
    weights were judged after training began. ``best_step`` is 0 where the start is the best.
    ``best_evaluation`` counts the validation passes until then, without that of the start. ``passes`` counts how often
    the training rows were gone over, which is not whole where a callback ended an epoch.
    ``epoch_ends`` and ``stopped`` say that a callback ends the epoch here, or training after it.
    ``solving`` says that all epochs are done and the best weights taken, ``solved`` how much was solved for since.
    ``num_train_epochs`` is what the run was last asked for. ``callbacks`` holds the states of those that have one.
    """

    begun: bool = False
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    num_train_epochs: int = 0
    best_step: int = 0
    best_epoch: float = 0
    best_evaluation: int = 0
    best_metric: float | None = None
    losses: list[float] = field(default_factory=list)
    metrics: list[float | None] = field(default_factory=list)
    epoch_loss: float = 0.0
    passes: float = 0.0
    logged_step: int = 0
    logged_loss: float = 0.0
    log_history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("prefix_cache", "start", "training", "validation", "solving", "sensitivity"), 0.0
        )
    )
    rows: dict[str, int] = field(default_factory=lambda: {"training": 0, "validation": 0})
    epoch_ends: bool = False
    stopped: bool = False
    solving: bool = False
    solved: int = 0
    finished: bool = False

    @property
    def evaluations(self) -> int:
        """Passes over the validation rows after training began."""
        return sum(metric is not None for metric in self.metrics)


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
) -> tuple[RunState, dict[str, torch.Tensor]]:
    """Restore module and optimizer from the state in ``folder``; return it and the best weights.

    Raises:
        CheckpointError: there is no such file, or it is damaged or belongs to another run.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"there is no {STATE_FILE} in {folder}; give the output_dir of a run, or start anew")
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
