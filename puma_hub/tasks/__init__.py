"""What an LLM is asked: tasks by name, templates, the rating head and metrics."""

from puma_hub.directions import Metric
from puma_hub.tasks.base import Task
from puma_hub.tasks.click import ClickTask
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.like import LikeTask
from puma_hub.tasks.ordinal import OrdinalTask
from puma_hub.tasks.rating import RatingTask
from puma_hub.tasks.registry import (
    as_task,
    default_task,
    register_task,
    task_from_dict,
    task_kind,
)
from puma_hub.tasks.template import PRESETS, PromptTemplate

__all__ = [
    "PRESETS",
    "ClickTask",
    "LikeTask",
    "Metric",
    "OrdinalTask",
    "PromptTemplate",
    "RatingHead",
    "RatingTask",
    "Task",
    "as_task",
    "default_task",
    "register_task",
    "task_from_dict",
    "task_kind",
]
