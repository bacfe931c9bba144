"""The link between a run and the callbacks of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, ExportableState

from puma_hub.errors import ConfigurationError
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.progress import Progress, ProgressCallback, no_progress
from puma_hub.training.state import RunState
from puma_hub.training.trackers import TrackerCallback

_FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")


class Events:
    """Calls the callbacks of a run, with a ``TrainerState`` that mirrors the :class:`RunState`.

    Args:
        handler: the callbacks, and the model, optimizer and schedule passed to them.
        epoch_steps: optimizer steps in an epoch.
        evaluates: whether the run computes a validation loss.
    """

    def __init__(
        self,
        handler: CallbackHandler,
        args: PumaTrainingArguments,
        accelerator: Accelerator,
        epoch_steps: int,
        evaluates: bool,
    ) -> None:
        if not evaluates and any(isinstance(callback, EarlyStoppingCallback) for callback in handler.callbacks):
            raise ConfigurationError(
                "EarlyStoppingCallback needs the validation loss, and none is computed; give a validation_share "
                f"above 0 (it is {args.validation_share}) and an eval_strategy other than 'no' (it is "
                f"{args.eval_strategy!r})"
            )
        self.handler, self.args, self.accelerator, self.epoch_steps = handler, args, accelerator, epoch_steps
        self.control = TrainerControl()
        assert args.num_train_epochs is not None  # filled by the trainer
        self.state = TrainerState(
            max_steps=args.num_train_epochs * epoch_steps,
            num_train_epochs=args.num_train_epochs,
            train_batch_size=args.per_device_train_batch_size,
            is_local_process_zero=accelerator.is_local_main_process,
            is_world_process_zero=accelerator.is_main_process,
        )
        self.state.compute_steps(args, self.state.max_steps)
        if args.eval_steps is None:
            self.state.eval_steps = self.state.logging_steps

    def begin(self, run: RunState) -> None:
        """Begin or resume ``run``. Callbacks with a state get the one of the last checkpoint."""
        waiting = {name: list(states) for name, states in run.callbacks.items()}
        for callback in self._stateful():
            states = waiting.get(type(callback).__name__)
            # Without a saved state, a callback that was used in another run is reset.
            state = states.pop(0) if states else type(callback)(**callback.state()["args"]).state()
            for name, value in state["attributes"].items():
                setattr(callback, name, value)
        self.call("on_train_begin", run)
        run.stopped = self.control.should_training_stop = self.control.should_training_stop or run.stopped

    def call(self, event: str, run: RunState, **values: Any) -> None:
        """Call ``event`` of all callbacks."""
        state = self.state
        state.global_step, state.epoch = run.step, run.epoch + run.epoch_step / self.epoch_steps
        state.best_metric, state.best_global_step = run.best_metric, run.best_step
        state.log_history = run.log_history
        self.control = getattr(self.handler, event)(self.args, state, self.control, **values)

    def log(self, run: RunState, logs: dict[str, float]) -> None:
        """Log numbers, with the epoch they belong to."""
        logs = {**logs, "epoch": run.epoch + run.epoch_step / self.epoch_steps}
        run.log_history.append({**logs, "step": run.step})
        self.call("on_log", run, logs=logs)

    def agree(self) -> None:
        """Share the callbacks' requests: what those of one process ask for is done in all."""
        if self.accelerator.num_processes == 1:
            return
        asked = torch.tensor([float(getattr(self.control, name)) for name in _FLAGS], device=self.accelerator.device)
        for name, processes in zip(_FLAGS, self.accelerator.reduce(asked, reduction="sum").tolist()):
            setattr(self.control, name, processes > 0)

    def callback_states(self) -> dict[str, list[dict[str, Any]]]:
        """The states of all callbacks with a state, by class name."""
        states: dict[str, list[dict[str, Any]]] = {}
        for callback in self._stateful():
            states.setdefault(type(callback).__name__, []).append(callback.state())
        return states

    def _stateful(self) -> list[Any]:
        return [callback for callback in self.handler.callbacks if isinstance(callback, ExportableState)]

    @contextmanager
    def part(self, label: str, unit: str) -> Iterator[Progress]:
        """Show a progress bar for work before the first step, if bars are shown."""
        shown = [callback for callback in self.handler.callbacks if isinstance(callback, ProgressCallback)]
        if not shown or not self.accelerator.is_main_process:
            yield no_progress
            return
        with shown[0].part(label, unit) as progress:
            yield progress

    def close(self) -> None:
        """Close bars and trackers, also after an error, and release the optimizer's memory."""
        self.handler.model = self.handler.optimizer = self.handler.lr_scheduler = None
        for callback in self.handler.callbacks:
            if isinstance(callback, (ProgressCallback, TrackerCallback)):
                callback.close()
