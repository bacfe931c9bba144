"""Evaluation on held-out rows, with baselines and controls."""

from puma_hub.evaluation.baselines import baseline_predictions
from puma_hub.evaluation.calibrate import Calibration, calibrate
from puma_hub.evaluation.compare import compare_banks, controls
from puma_hub.evaluation.evaluate import evaluate_bank
from puma_hub.evaluation.gate import Gate, Outcome, Verdict
from puma_hub.evaluation.report.migration import MigrationReport, migration_report

__all__ = [
    "Calibration",
    "Gate",
    "MigrationReport",
    "Outcome",
    "Verdict",
    "baseline_predictions",
    "calibrate",
    "compare_banks",
    "controls",
    "evaluate_bank",
    "migration_report",
]
