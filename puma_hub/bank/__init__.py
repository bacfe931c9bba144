"""Prompt banks: one soft prompt a user, with where they come from."""

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.statistics import BankStatistics

__all__ = ["BankStatistics", "PromptBank", "Provenance"]
