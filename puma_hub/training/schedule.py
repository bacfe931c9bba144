"""Learning rate schedules. They depend on the step alone, so a run can be resumed or extended at any step."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import get_scheduler

from puma_hub.errors import ConfigurationError
from puma_hub.training.args import PumaTrainingArguments


def make_schedule(args: PumaTrainingArguments, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """The ``LambdaLR`` of ``args`` over ``steps`` optimizer steps.

    Raises:
        ConfigurationError: the schedule is unknown, depends on more than the step, or has no warm-up.
    """
    name, warmup = args.lr_scheduler_type, args.warmup_steps
    if warmup and name == "constant":
        raise ConfigurationError(f"lr_scheduler_type 'constant' has no warmup_steps={warmup}; use constant_with_warmup")
    warmup = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    try:
        schedule: Any = get_scheduler(name, optimizer, warmup, max(1, steps))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"lr_scheduler_type {name!r} cannot be used: {error}") from error
    if not hasattr(schedule, "lr_lambdas"):
        raise ConfigurationError(
            f"lr_scheduler_type {name!r} depends on more than the step, so a run could not be resumed exactly; use one "
            "such as cosine, linear or constant"
        )
    return schedule


def go_to(schedule: Any, step: int) -> None:
    """Set the rates to those after ``step`` steps. Calling ``schedule.step()`` as often would warn about the order."""
    schedule.last_epoch = step
    rates = [base * scale(step) for base, scale in zip(schedule.base_lrs, schedule.lr_lambdas)]
    for group, rate in zip(schedule.optimizer.param_groups, rates):
        group["lr"] = rate
    schedule._last_lr = rates
