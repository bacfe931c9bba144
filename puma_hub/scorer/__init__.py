"""The scorer: a frozen language model with a template and a task. It scores rows given users' soft prompts."""

from puma_hub.scorer.encoding import EncodedRows, FilledSlot
from puma_hub.scorer.lm import PersonalizedLM

__all__ = ["EncodedRows", "FilledSlot", "PersonalizedLM"]
