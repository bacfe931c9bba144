"""The demo's report as one table."""

from __future__ import annotations

from typing import Any

from puma_hub.adapter.facts import prediction_labels
from puma_hub.extensions import BASELINES

_PROMPTS = ("source", "teacher", "migrated", "retrained", "random")


def compared(report: dict[str, Any]) -> list[str]:
    """Whose errors are shown: prompts, then the baselines whose packages were installed."""
    return [name for name in (*_PROMPTS, *BASELINES) if name in report["rmse"]]


def demo_table(report: dict[str, Any]) -> str:
    """A Markdown table of errors and costs, and the figures on users the adapter never saw."""
    seconds, samples = report["seconds"], report["samples"]
    costs = {
        "source": (seconds["source"], None),
        "migrated": (seconds["selection"] + seconds["adapter"] + seconds["migration"], samples["adapter"]),
        "retrained": (seconds["retraining"], samples["retraining"]),
    }
    lines = ["| all users, held-out rows | RMSE | MAE | seconds | samples |", "|---|---|---|---|---|"]
    for key in compared(report):
        time, rows = costs.get(key, (None, None))
        cells = [
            f"{report['rmse'][key]:.4f}",
            f"{report['mae'][key]:.4f}",
            "" if time is None else f"{time:.0f}",
            rows or "",
        ]
        lines.append(f"| {prediction_labels()[key]} | " + " | ".join(str(cell) for cell in cells) + " |")
    lines += _sides(report["unseen"], "users the adapter never saw")
    if report["other_bank"] is not None:
        lines += _sides(report["other_bank"], "users of a bank trained apart, which the adapter was not trained on")
    lines.append(
        f"The adapter trained on {report['users']['selected']} of {report['users']['total']} users; retraining all to "
        f"its best epoch ({report['best_epoch']['retraining']} of {report['best_epoch']['of']}) costs "
        f"{report['speedup']:.1f} times the time and {report['flops_ratio']:.1f} times the FLOPs "
        f"({report['flops_ratio_with_prefix_cache']:.1f} times with the target's prefix cache counted on both sides)."
    )
    return "\n".join(lines)


def _sides(figures: dict[str, Any], whose: str) -> list[str]:
    rows = {
        "own prompts": ("source", "migrated"),
        "one mean prompt for all": ("source_mean", "migrated_mean"),
        "prompts shuffled among users": ("source_shuffled", "shuffled"),
        "personal gain": ("gain_source", "gain_migrated"),
    }
    retention = figures["retention"]
    return [
        "",
        f"| {figures['users']} {whose}, RMSE | source | target |",
        "|---|---|---|",
        *(f"| {label} | {figures[one]:.4f} | {figures[two]:.4f} |" for label, (one, two) in rows.items()),
        "",
        f"Retention of the personal gain: {'none to retain' if retention is None else format(retention, '.2f')}.",
    ]
