"""Training: the prompts of users and items on one LLM, and the adapter between two."""

from puma_hub.training.adapter_trainer import AdapterTrainer
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.drawn_rows import draw_rows
from puma_hub.training.prompt_trainer import PromptTrainer
from puma_hub.training.sensitivity import item_base, with_sensitivity
from puma_hub.training.teacher import with_source_predictions

__all__ = [
    "AdapterTrainer",
    "PromptTrainer",
    "PumaTrainingArguments",
    "draw_rows",
    "item_base",
    "with_sensitivity",
    "with_source_predictions",
]
