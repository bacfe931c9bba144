"""The settings of a training run, named as in transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from puma_hub.errors import ConfigurationError

PROMPT_METHODS = ("shared", "independent")
VALIDATION_SHARE = 0.1
_LARGEST = 1e37  # a tenth of what float32 holds
# What a trainer uses where the arguments leave a field at None.
PROMPT_DEFAULTS: dict[str, dict[str, Any]] = {
    # Ours; learning rates are in units of the LLM's embedding RMS.
    "shared": {
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "base_learning_rate": 5e-2,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 64,
        "offset_penalty": 5e-2,
    },
    # Paper, hyperparameters; in the LLM's own units.
    "independent": {
        "num_train_epochs": 15,
        "learning_rate": 5e-4,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.0,
    },
}
# By what the adapter learns from. Base and head have a few dozen steps to fit the new LLM, where users are few.
ADAPTER_DEFAULTS: dict[str, dict[str, Any]] = {
    "labels": {
        "start_rows": 0,
        "num_train_epochs": 4,
        "learning_rate": 2e-4,
        "base_learning_rate": 0.1,
        "head_learning_rate": 1e-2,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.03,
    },
    # Predictions are less noisy than labels, so all can be solved for. Rates are those of a refinement.
    "source predictions": {
        "start_rows": 1024,
        "num_train_epochs": 0,
        "learning_rate": 1e-4,
        "base_learning_rate": 2e-2,
        "head_learning_rate": 1e-3,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.01,
    },
    # For a network without a linear branch: smaller batches than for labels, and more of them.
    "source predictions, no start": {
        "start_rows": 0,
        "num_train_epochs": 4,
        "learning_rate": 2e-4,
        "base_learning_rate": 0.2,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 16,
        "offset_penalty": 0.03,
    },
}


@dataclass(frozen=True)
class PumaTrainingArguments:
    """Settings of :class:`PromptTrainer` and :class:`AdapterTrainer`.

    Args:
        output_dir: where checkpoint and report go; without it nothing is written and nothing can be resumed.
        num_train_epochs: passes over the training rows; the best one by validation is kept. 0 leaves an adapter as
            it was solved for, see ``start_rows``.
        learning_rate: of the prompts (user offsets, for the shared method) or of the adapter.
        base_learning_rate: of what all users share (not for the independent method), in units of the LLM's embedding
            RMS.
        head_learning_rate: of the rating head.
        per_device_train_batch_size: rows a step on each process.
        per_device_eval_batch_size: rows at once where there is no backward pass.
        lr_scheduler_type: a schedule of transformers by name; no warm-up.
        weight_decay: decoupled, on prompts of the independent method and on the adapter's network.
        max_grad_norm: gradients of adapter and independent prompts are clipped to this norm.
        validation_share: share kept for choosing the best epoch: of each user's training rows, the last in time
            (prompts), or of the training users with all their rows (adapter). 0.1 by default; 0 for users who are added
            to a bank, whose few rows choose no epoch.
        seed: of everything random.
        prompt_method: ``shared`` (one base plus a penalised offset a user; the default) or ``independent`` (as in the
            paper); for users who are added to a bank, the bank's.
        prompt_length: soft tokens a user, 1 by default; for users who are added to a bank, the bank's.
        offset_penalty: weight of the squared norm of what is a user's own, in embedding RMS, summed over a prompt's
            coordinates. Source prompts know the very labels the adapter trains on, so without it the adapter trusts
            them more than new rows justify.
        start_rows: rows, at most, by which the adapter is solved for before the first epoch, see
            :func:`puma_hub.training.gauss_newton.start_by_gauss_newton`; 0 for none. Labels are too noisy for it.
        teacher_weight: of the source's predictions, where rows carry them, against the labels' ``1 - teacher_weight``.
        checkpoint_seconds: time between two checkpoints.
        disable_tqdm: show no progress bars.

    Raises:
        ConfigurationError: a value is out of range.
    """

    output_dir: str | None = None
    num_train_epochs: int | None = None
    learning_rate: float | None = None
    base_learning_rate: float | None = None
    head_learning_rate: float | None = None
    per_device_train_batch_size: int | None = None
    per_device_eval_batch_size: int = 256
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    validation_share: float | None = None
    seed: int = 42
    prompt_method: str | None = None
    prompt_length: int | None = None
    offset_penalty: float | None = None
    start_rows: int | None = None
    teacher_weight: float = 1.0
    checkpoint_seconds: float = 60.0
    disable_tqdm: bool = False

    def __post_init__(self) -> None:
        at_least = dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "prompt_length"), 1)
        for name, least in {"num_train_epochs": 0, "start_rows": 0, **at_least}.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{name} must be a whole number >= {least}, got {value!r}")
        for name in ("learning_rate", "base_learning_rate", "head_learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < _LARGEST:
                raise ConfigurationError(f"{name} must be greater than 0 and below {_LARGEST:g}, got {value!r}")
        for name in ("weight_decay", "offset_penalty", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigurationError(f"{name} must not be negative, got {value!r}")
        if not 0.0 <= self.teacher_weight <= 1.0:
            raise ConfigurationError(f"teacher_weight must lie in [0, 1], got {self.teacher_weight!r}")
        if self.validation_share is not None and not 0.0 <= self.validation_share < 1.0:
            raise ConfigurationError(f"validation_share must lie in [0, 1), got {self.validation_share!r}")
        if self.prompt_method not in (None, *PROMPT_METHODS):
            raise ConfigurationError(
                f"unknown prompt_method {self.prompt_method!r}; choose one of {', '.join(PROMPT_METHODS)}"
            )

    def filled(self, defaults: dict[str, Any]) -> PumaTrainingArguments:
        """These arguments with ``defaults`` where they hold None."""
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def require_training(self, start_rows: int = 0) -> None:
        """Refuse to train nothing: no epoch, and no rows to solve by."""
        if self.num_train_epochs == 0 and not start_rows:
            raise ConfigurationError(
                "num_train_epochs=0 trains nothing where no start is solved for; give at least 1, or start_rows and a "
                "teacher to an adapter that has not been trained"
            )

    def identity(self) -> dict[str, Any]:
        """What decides the result; where it goes and what is shown does not."""
        ignored = ("output_dir", "checkpoint_seconds", "disable_tqdm", "per_device_eval_batch_size")
        return {name: value for name, value in asdict(self).items() if name not in ignored}
