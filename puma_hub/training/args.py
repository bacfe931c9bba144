"""The settings of a training run, named as in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from puma_hub.errors import ConfigurationError

PROMPT_METHODS = ("posterior", "shared", "independent")
_EVAL_STRATEGIES = ("epoch", "steps", "no")
_LARGEST = 1e37  # a tenth of what float32 holds
_AT_LEAST = {
    "num_train_epochs": 0,
    "start_rows": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "prompt_length": 1,
}
# These decide where results go, how often something is shown or saved, and how many rows are computed at once. They do
# not change the result. The number of epochs does, but a run may be extended.
_NOT_DECIDING = (
    "num_train_epochs",
    "output_dir",
    "checkpoint_seconds",
    "disable_tqdm",
    "per_device_eval_batch_size",
    "gradient_batch_size",
    "logging_steps",
    "report_to",
    "run_name",
    "project",
)


@dataclass(frozen=True)
class PumaTrainingArguments:
    """Settings of :class:`PromptTrainer` and :class:`AdapterTrainer`.

    Settings that ``transformers.TrainingArguments`` also has keep its name and meaning. Logging and evaluation
    schedules count optimizer steps, as there.

    Args:
        output_dir: folder of checkpoint, report and TensorBoard files. Without it nothing is written, so the run cannot
            be resumed.
        num_train_epochs: passes over the training rows. 0 keeps the adapter as Gauss-Newton leaves it, see
            ``start_rows``. A larger number extends a finished run in ``output_dir`` when ``train()`` is called again.
        learning_rate: for the prompts (user offsets, with the shared method) or for the adapter.
        base_learning_rate: for the base, which the independent method does not have, in units of the LLM's embedding
            RMS.
        head_learning_rate: for the rating head.
        per_device_train_batch_size: rows in one forward and backward pass of each process.
        gradient_accumulation_steps: forward and backward passes in one optimizer step. The step is the same as with
            one batch of all these rows.
        per_device_eval_batch_size: rows in one forward pass without gradients. 256 by default, since no activations
            are kept.
        gradient_batch_size: rows in one pass with gradients outside the training steps: for the Gauss-Newton start and
            for the sensitivity.
        lr_scheduler_type: name of a schedule of transformers.
        warmup_steps: steps over which the learning rates rise from 0. A number below 1 is a share of all steps.
        weight_decay: decoupled weight decay of independent prompts and of the adapter's network.
        max_grad_norm: the gradients of the adapter and of independent prompts are clipped to this norm.
        eval_strategy: when the validation loss is computed. ``epoch`` (the default) and ``steps`` (every ``eval_steps``
            and at the end) keep the best weights. ``no`` keeps the last weights and leaves the validation rows for
            ``evaluate()``.
        eval_steps: ``logging_steps`` by default. A number below 1 is a share of all steps.
        logging_steps: steps between two logs of loss and learning rate. A number below 1 is a share of all steps.
        report_to: names of Accelerate's trackers, such as ``tensorboard`` or ``trackio``; ``none`` by default.
        run_name: name of the run in a tracker; the trainer's kind by default.
        project: name of the project in a tracker.
        validation_share: share held out for validation. For prompts, the last rows in time of each user's training
            rows. For adapters, training users with all their rows. 0.1 by default; 0 for the posterior method, which
            solves for the offsets in the end, and when users are added to a bank.
        seed: seed of everything random.
        prompt_method: ``shared`` (one base, and a penalised offset for each user), ``posterior`` (the same, and then
            each user's offset is solved for around the base; the default) or ``independent`` (as in the paper). When
            users are added to a bank, the bank's.
        prompt_length: soft tokens for each user, 1 by default. When users are added to a bank, the bank's.
        offset_penalty: weight of the squared norm of a user's offset, in embedding RMS, summed over a prompt's
            coordinates. Source prompts overfit their training labels, and an adapter may train on the same labels. Its
            penalty shrinks the differences between the users' migrated prompts.
        start_rows: the adapter is solved for on at most this many rows before the first epoch, see
            :func:`puma_hub.training.gauss_newton.start_by_gauss_newton`. 0 skips this. Labels are too noisy for it.
        teacher_weight: weight of the source's predictions, if the rows have them. Labels get ``1 - teacher_weight``.
        checkpoint_seconds: time between two checkpoints. One is also written after each epoch.
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
    gradient_accumulation_steps: int = 1
    per_device_eval_batch_size: int = 256
    gradient_batch_size: int = 128
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_strategy: str = "epoch"
    eval_steps: float | None = None
    logging_steps: float = 500
    report_to: str | Sequence[str] | None = "none"
    run_name: str | None = None
    project: str = "puma-hub"
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
        for name, least in _AT_LEAST.items():
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
        self._require_choice("prompt_method", (None, *PROMPT_METHODS))
        self._require_choice("eval_strategy", _EVAL_STRATEGIES)
        self._require_steps("warmup_steps", self.warmup_steps, zero=True)
        self._require_steps("logging_steps", self.logging_steps)
        if self.eval_steps is not None:
            if self.eval_strategy != "steps":
                raise ConfigurationError(
                    f"eval_steps={self.eval_steps} needs eval_strategy='steps', got {self.eval_strategy!r}; leave one "
                    "of them out"
                )
            self._require_steps("eval_steps", self.eval_steps)

    def _require_choice(self, name: str, choices: Sequence[str | None]) -> None:
        value = getattr(self, name)
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice is not None)
            raise ConfigurationError(f"unknown {name} {value!r}; choose one of {known}")

    @staticmethod
    def _require_steps(name: str, value: float, zero: bool = False) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (0 < value < 1 or (value >= (0 if zero else 1) and value == int(value))):
            raise ConfigurationError(
                f"{name} must be a whole number of steps >= {0 if zero else 1}, or a share of all steps above 0 and "
                f"below 1, got {value!r}"
            )

    def filled(self, defaults: dict[str, Any]) -> PumaTrainingArguments:
        """These arguments, with ``defaults`` in place of None."""
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def require_training(self, start_rows: int = 0) -> None:
        """Check that there is something to train: an epoch, or rows for the Gauss-Newton start."""
        if self.num_train_epochs == 0 and not start_rows:
            raise ConfigurationError(
                "num_train_epochs=0 trains nothing without a Gauss-Newton start; give at least 1 epoch. For a new "
                "adapter, start_rows and a teacher will do, too"
            )

    @property
    def trackers(self) -> list[str]:
        """``report_to`` as a list of names, without ``none``."""
        names = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or ())
        return [name for name in names if name != "none"]

    def identity(self) -> dict[str, Any]:
        """The settings that decide a run's result, without the number of epochs."""
        named = {name: value for name, value in asdict(self).items() if name not in _NOT_DECIDING}
        if self.eval_strategy == "steps":
            named["eval_steps"] = self.eval_steps or self.logging_steps
        return named

    # Callbacks of transformers read these of its TrainingArguments. The values are what the loop does.
    logging_strategy = IntervalStrategy.STEPS
    logging_first_step = False
    eval_delay = 0
    save_strategy = SaveStrategy.EPOCH
    save_steps = 0
    metric_for_best_model = "loss"
    greater_is_better = False

    @property
    def load_best_model_at_end(self) -> bool:
        return self.eval_strategy != "no"
