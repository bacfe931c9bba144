"""Tasks by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from puma_hub.directions import Metric, make_known, require_direction
from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.base import Task
from puma_hub.tasks.template import PromptTemplate

_DEFAULT = "rating"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_TASKS: dict[str, type[Task]] = {}

Kind = TypeVar("Kind", bound=type[Task])


def register_task(kind: Kind) -> Kind:
    """Make a task known by its name: to banks, adapters and cards that were made with it, and to the command line.

    Can stand above the class as a decorator. See docs/development.md for a complete example.

    Args:
        kind: a subclass of :class:`puma_hub.tasks.Task`, a frozen dataclass.

    Returns:
        ``kind``.

    Raises:
        ConfigurationError: the class lacks something of a task, its name is taken, or another task has a metric of the
            same name that is better in the other direction.
    """
    _require_task(kind)
    if kind.name in _TASKS:
        raise ConfigurationError(
            f"a task named {kind.name!r} is registered already, {_TASKS[kind.name].__qualname__}; choose another name"
        )
    for metric in kind.metrics:
        require_direction(metric)
    for metric in kind.metrics:
        make_known(metric)
    _TASKS[kind.name] = kind
    return kind


def _require_task(kind: Any) -> None:
    if not inspect.isclass(kind) or not issubclass(kind, Task):
        raise ConfigurationError(f"a task is a subclass of puma_hub.tasks.Task, got {shown(kind)}")
    title = kind.__qualname__
    lacking = sorted(kind.__abstractmethods__)
    lacking += [name for name in ("name", "title", "template", "metrics") if not hasattr(kind, name)]
    if lacking:
        raise ConfigurationError(f"the task {title} lacks {', '.join(lacking)}; define them")
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    if not is_dataclass(kind) or "__dataclass_params__" not in vars(kind) or not parameters.frozen:
        raise ConfigurationError(f"the task {title} must be a frozen dataclass; add @dataclass(frozen=True)")
    if not isinstance(kind.name, str) or not _NAME.fullmatch(kind.name):
        raise ConfigurationError(f"a task's name is made of a-z, 0-9, - and _, got {shown(kind.name)}")
    metrics = kind.metrics
    if not isinstance(metrics, tuple) or not metrics or not all(isinstance(metric, Metric) for metric in metrics):
        raise ConfigurationError(f"the metrics of {title} must be a tuple of one or more Metric, got {shown(metrics)}")
    PromptTemplate.of(kind.template)


def task_kind(name: object = _DEFAULT) -> type[Task]:
    """The class of the task ``name``.

    Raises:
        ConfigurationError: there is no such task.
    """
    if not isinstance(name, str) or name not in _TASKS:
        raise ConfigurationError(
            f"unknown task {shown(name)}; tasks are {', '.join(_TASKS)}. Import the module that registers it first"
        )
    return _TASKS[name]


def default_task() -> Task:
    """What is asked where nothing else is said."""
    return task_kind().from_values(None)


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """Rebuild a task from :meth:`Task.to_dict`.

    Raises:
        ConfigurationError: the task is unknown, or a field has a value that cannot be used.
    """
    return task_kind(data.get("name")).from_dict(data)


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
