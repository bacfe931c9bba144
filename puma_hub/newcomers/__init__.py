"""First prompts for users whom the target LLM does not know."""

from puma_hub.newcomers.cold_start import cold_start

__all__ = ["cold_start"]
