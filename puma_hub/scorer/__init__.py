"""A frozen language model with a template and a task, scoring rows through soft prompts."""

from puma_hub.scorer.encoding import EncodedRows
from puma_hub.scorer.head import RatingHead
from puma_hub.scorer.lm import PersonalizedLM
from puma_hub.scorer.tasks import ClickTask, RatingTask, Task, task_from_dict
from puma_hub.scorer.template import PRESETS, PromptTemplate

__all__ = [
    "PRESETS",
    "ClickTask",
    "EncodedRows",
    "PersonalizedLM",
    "PromptTemplate",
    "RatingHead",
    "RatingTask",
    "Task",
    "task_from_dict",
]
