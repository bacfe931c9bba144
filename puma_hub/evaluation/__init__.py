"""Evaluation on held-out rows, with baselines and controls."""

from puma_hub.evaluation.baselines import rating_baselines
from puma_hub.evaluation.compare import compare_banks, controls
from puma_hub.evaluation.evaluate import evaluate_bank

__all__ = ["compare_banks", "controls", "evaluate_bank", "rating_baselines"]
