"""Sending a run's logs to the trackers of Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from transformers import TrainerCallback, TrainerControl, TrainerState

from puma_hub.errors import ConfigurationError, MissingDependencyError
from puma_hub.training.args import PumaTrainingArguments

LOGS_FOLDER = "runs"  # in output_dir, as in transformers
# Packages whose name differs from the tracker's.
_PACKAGES = {"comet_ml": "comet-ml"}
# Arguments that set the name of the run, for trackers whose first argument is the name of the project.
_NAMING: dict[str, Callable[[str], dict[str, str]]] = {
    "trackio": lambda run: {"name": run, "resume": "allow"},
    "wandb": lambda run: {"name": run},
}


def require_trackers(names: Sequence[str], output_dir: str | None) -> None:
    """Check that ``names`` are trackers of Accelerate and can be used here.

    Raises:
        ConfigurationError: a tracker is unknown, or it writes files and there is no ``output_dir``.
        MissingDependencyError: a tracker's package is not installed.
    """
    known = LOGGER_TYPE_TO_CLASS
    built_in = {str(name) for name in LoggerType}  # all others were registered by the user
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"report_to has {name!r}; choose 'none', or some of {', '.join(sorted(known))}")
        if name in built_in and name not in available:
            package = _PACKAGES.get(name, name)
            raise MissingDependencyError(f"report_to={name!r} needs the package {package}: pip install {package}")
        if known[name].requires_logging_directory and output_dir is None:
            raise ConfigurationError(
                f"report_to={name!r} writes files to {LOGS_FOLDER}/ in output_dir; give output_dir"
            )


class TrackerCallback(TrainerCallback):
    """Sends a run's settings and logs to the trackers of ``report_to``.

    These are numbers and short texts. They hold no user ids, no item texts and no folders.
    """

    def __init__(self, args: PumaTrainingArguments, run_name: str) -> None:
        require_trackers(args.trackers, args.output_dir)
        self.run_name = args.run_name or run_name
        self.trackers: list[GeneralTracker] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        settings = {"num_train_epochs": args.num_train_epochs, **args.identity()}
        settings = {name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))}
        for name in args.trackers:
            tracker = self._made(name, args)
            tracker.start()
            self.trackers.append(tracker)
            tracker.store_init_configuration(settings)

    def _made(self, name: str, args: PumaTrainingArguments) -> GeneralTracker:
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:  # these trackers take the name of the run, others that of the project
            return kind(self.run_name, str(Path(str(args.output_dir), LOGS_FOLDER)))
        return kind(args.project, **_NAMING.get(name, lambda _: {})(self.run_name))

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        for tracker in self.trackers:
            tracker.log(dict(logs or {}), step=state.global_step)

    def close(self) -> None:
        """End the trackers' runs; called at the end of training, also after an error."""
        while self.trackers:
            self.trackers.pop().finish()
