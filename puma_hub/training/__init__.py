"""Training: the users' prompts on one LLM, and the adapter between two."""

from puma_hub.training.adapter import AdapterTrainer
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.prompts import PromptTrainer

__all__ = ["AdapterTrainer", "PromptTrainer", "PumaTrainingArguments"]
