"""Training the prompts of users and items on one LLM, and training an adapter between two LLMs."""

from puma_hub.training.adapter_trainer import AdapterTrainer
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.drawn_rows import draw_rows
from puma_hub.training.prompt_trainer import PromptTrainer
from puma_hub.training.sensitivity import item_base, with_sensitivity
from puma_hub.training.teacher import with_source_predictions
from puma_hub.training.teachers import best_teacher, combine_teachers
from puma_hub.training.untrained import untrained_adapter

__all__ = [
    "AdapterTrainer",
    "PromptTrainer",
    "PumaTrainingArguments",
    "best_teacher",
    "combine_teachers",
    "draw_rows",
    "item_base",
    "untrained_adapter",
    "with_sensitivity",
    "with_source_predictions",
]
