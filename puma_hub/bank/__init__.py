"""Prompt banks: one soft prompt a user, with where they come from."""

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.provenance import Provenance

__all__ = ["PromptBank", "Provenance"]
