"""A frozen language model with a template and a task, scoring rows through soft prompts."""

from puma_hub.scorer.encoding import EncodedRows, FilledSlot
from puma_hub.scorer.lm import PersonalizedLM

__all__ = ["EncodedRows", "FilledSlot", "PersonalizedLM"]
