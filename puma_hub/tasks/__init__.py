"""What an LLM is asked: the template, the answers, the loss on their logits and the prediction."""

from puma_hub.tasks.base import Task
from puma_hub.tasks.click import ClickTask
from puma_hub.tasks.head import RatingHead
from puma_hub.tasks.rating import RatingTask
from puma_hub.tasks.registry import as_task, task_from_dict
from puma_hub.tasks.template import PRESETS, PromptTemplate

__all__ = [
    "PRESETS",
    "ClickTask",
    "PromptTemplate",
    "RatingHead",
    "RatingTask",
    "Task",
    "as_task",
    "task_from_dict",
]
