"""The demo's report as one table."""

from __future__ import annotations

from typing import Any

from puma_hub.hub.facts import PREDICTIONS

_ROWS = ("source", "teacher", "migrated", "retrained", "random", "global_mean", "user_mean", "user_item_bias")


def demo_table(report: dict[str, Any]) -> str:
    """A Markdown table of errors and costs, and the figures on users the adapter never saw."""
    seconds, samples = report["seconds"], report["samples"]
    costs = {
        "source": (seconds["source"], None),
        "migrated": (seconds["selection"] + seconds["adapter"] + seconds["migration"], samples["adapter"]),
        "retrained": (seconds["retraining"], samples["retraining"]),
    }
    lines = ["| all users, held-out rows | RMSE | MAE | seconds | samples |", "|---|---|---|---|---|"]
    for key in _ROWS:
        time, rows = costs.get(key, (None, None))
        cells = [
            f"{report['rmse'][key]:.4f}",
            f"{report['mae'][key]:.4f}",
            "" if time is None else f"{time:.0f}",
            rows or "",
        ]
        lines.append(f"| {PREDICTIONS[key]} | " + " | ".join(str(cell) for cell in cells) + " |")
    unseen = report["unseen"]
    lines += ["", f"| {unseen['users']} users the adapter never saw, RMSE | source | target |", "|---|---|---|"]
    lines.append(f"| own prompts | {unseen['source']:.4f} | {unseen['migrated']:.4f} |")
    lines.append(f"| one mean prompt for all | {unseen['source_mean']:.4f} | {unseen['migrated_mean']:.4f} |")
    lines.append(f"| prompts shuffled among users | {unseen['source_shuffled']:.4f} | {unseen['shuffled']:.4f} |")
    lines.append(f"| personal gain | {unseen['gain_source']:.4f} | {unseen['gain_migrated']:.4f} |")
    retention = unseen["retention"]
    lines += [
        "",
        f"Retention of the personal gain: {'none to retain' if retention is None else format(retention, '.2f')}.",
    ]
    lines.append(
        f"The adapter trained on {report['users']['selected']} of {report['users']['total']} users; retraining all to "
        f"its best epoch ({report['best_epoch']['retraining']} of {report['best_epoch']['of']}) costs "
        f"{report['speedup']:.1f} times the time and {report['flops_ratio']:.1f} times the FLOPs "
        f"({report['flops_ratio_with_prefix_cache']:.1f} times with the target's prefix cache counted on both sides)."
    )
    return "\n".join(lines)
