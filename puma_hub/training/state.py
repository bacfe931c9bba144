"""The state of a run in one safetensors file, so that a killed run can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from puma_hub.errors import CheckpointError, first_line, shown
from puma_hub.storage import new_file

STATE_FILE = "training_state.safetensors"
_OF_ADAMW = {"step", "exp_avg", "exp_avg_sq"}


@dataclass
class RunState:
    """The progress of a run.

    Attributes:
        step: optimizer steps taken.
        epoch: finished epochs.
        epoch_step: optimizer steps taken in the current epoch.
        losses: the mean training loss of each epoch.
        metrics: the validation loss, or None without validation rows, of each evaluation after training began.
        best_step: the step of the best weights; 0 if these are the initial ones.
        best_evaluation: the number of validation passes up to the best weights, without that of the initial weights.
        passes: passes over the training rows. A fraction if a callback ended an epoch early.
        epoch_ends: a callback ends the epoch after this step.
        stopped: a callback ends training after this epoch.
        num_train_epochs: the number of epochs the run was last started with.
        callbacks: the states of callbacks that have one.
        solving: all epochs are done and the best weights are loaded.
        solved: how much has been solved for since then.
    """

    begun: bool = False
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    num_train_epochs: int = 0
    best_step: int = 0
    best_epoch: int | float = 0
    best_evaluation: int = 0
    best_metric: float | None = None
    losses: list[float] = field(default_factory=list)
    metrics: list[float | None] = field(default_factory=list)
    epoch_loss: float = 0.0
    passes: float = 0.0
    logged_step: int = 0
    logged_loss: float = 0.0
    log_history: list[dict[str, int | float]] = field(default_factory=list)
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

    @classmethod
    def of(cls, text: str) -> RunState:
        """Rebuild from JSON.

        Raises:
            CheckpointError: a field is missing, unknown, or of another kind.
        """
        try:
            data = msgspec.json.decode(text)
            if not isinstance(data, dict) or data.keys() != {one.name for one in fields(cls)}:
                raise CheckpointError("the state of a run has other fields")
            state: RunState = msgspec.convert(data, cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise CheckpointError(f"the state of a run is malformed: {first_line(error)}") from error
        kinds = cls()
        if min(state.step, state.epoch, state.epoch_step, state.solved) < 0 or any(
            getattr(state, name).keys() != getattr(kinds, name).keys() for name in ("seconds", "rows")
        ):
            raise CheckpointError("the state of a run counts below 0, or counts something else")
        return state

    @property
    def evaluations(self) -> int:
        """Passes over the validation rows after training began."""
        return sum(metric is not None for metric in self.metrics)


def identity_hash(parts: Mapping[str, Any]) -> str:
    """Hash all that decides a run's result. It keeps a state from being resumed with other settings or data."""
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
    """Write the state atomically: a reader sees either the previous file or this one."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()} | _optimizer_tensors(optimizer)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with new_file(Path(folder) / STATE_FILE) as path:
        save_file(tensors, path, metadata={"identity": identity, "state": json.dumps(asdict(state))})


def load_state(
    folder: str | Path, identity: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[RunState, dict[str, torch.Tensor]]:
    """Restore module and optimizer from the state in ``folder``; return the state and the best weights.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to another run.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"there is no {STATE_FILE} in {folder}; give the output_dir of a run, or start anew")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if metadata.get("identity") != identity:
        raise CheckpointError(
            f"{path} belongs to a run with other settings or data; use another folder, or delete it to start again"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {"module": {}, "best": {}, "optimizer": {}}
    try:
        state = RunState.of(metadata["state"])
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        if parts["best"]:
            _require_same(parts["best"], module.state_dict())
        states = _optimizer_states(parts["optimizer"], optimizer)
        _require_same(parts["module"], module.state_dict())
    except (KeyError, ValueError, CheckpointError) as error:
        raise _damaged(path, error) from error
    module.load_state_dict(parts["module"])
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, parts["best"]


def _optimizer_states(
    tensors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, torch.Tensor]]:
    """The states of the optimizer's parameters, by their numbers."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        number = int(index)
        if not 0 <= number < len(parameters) or tensor.shape not in ((), parameters[number].shape):
            raise CheckpointError(f"the optimizer has no {shown(name)} of shape {tuple(tensor.shape)}")
        states.setdefault(number, {})[key] = tensor
    if any(state.keys() != _OF_ADAMW for state in states.values()):
        raise CheckpointError("the state of the optimizer is not one of AdamW")
    return states


def _require_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Check that these are the weights of a module: the same names, shapes and dtypes.

    Raises:
        CheckpointError: they are not.
    """
    if {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} != {
        name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()
    }:
        raise CheckpointError("its weights have other names, shapes or dtypes than those that are trained")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({first_line(error)}); delete it to start again")
