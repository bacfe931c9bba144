"""Tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.base import Task
from puma_hub.tasks.click import ClickTask
from puma_hub.tasks.rating import RatingTask


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """Rebuild a task from :meth:`Task.to_dict`."""
    known = ("values", "mse_weight")
    name = data.get("name")
    if name == RatingTask.name:
        return RatingTask(**{key: value for key, value in data.items() if key in known})
    if name == ClickTask.name:
        return ClickTask()
    raise ConfigurationError(f"unknown task {shown(name)}; tasks are {RatingTask.name!r} and {ClickTask.name!r}")


def as_task(task: object) -> Task:
    """A task, or one rebuilt from its :meth:`Task.to_dict`.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(task, Mapping):
        return task_from_dict(task)
    if isinstance(task, Task):
        return task
    raise ConfigurationError(f"a task is a Task or its dict, got {shown(task)}")
