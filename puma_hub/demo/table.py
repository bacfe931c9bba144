"""The demo's report as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from puma_hub.adapter.facts import prediction_labels
from puma_hub.extensions import BASELINES

_PROMPTS = ("source", "teacher", "migrated", "retrained", "random")


def compared(report: dict[str, Any]) -> list[str]:
    """Whose errors are shown: prompts, then the baselines whose packages were installed."""
    return [name for name in (*_PROMPTS, *BASELINES) if name in report["rmse"]]


def demo_table(report: dict[str, Any]) -> str:
    """Markdown tables of errors and costs, and of the controls for users the adapter never saw."""
    seconds, samples = report["seconds"], report["samples"]
    costs = {
        "source": (seconds["source"], None),
        "migrated": (seconds["selection"] + seconds["adapter"] + seconds["migration"], samples["adapter"]),
        "retrained": (seconds["retraining"], samples["retraining"]),
    }
    rows = []
    for key in compared(report):
        time, count = costs.get(key, (None, None))
        figures = f"{report['rmse'][key]:.4f}", f"{report['mae'][key]:.4f}"
        rows.append([prediction_labels()[key], *figures, "" if time is None else f"{time:.0f}", count or ""])
    parts = [
        _markdown(["all users, held-out rows", "RMSE", "MAE", "seconds", "samples"], rows),
        _controls(report["unseen"], "users the adapter never saw"),
    ]
    if (other := report["other_bank"]) is not None:
        parts.append(_controls(other, "users of a bank trained apart, which the adapter was not trained on"))
    parts.append(
        f"The adapter trained on {report['users']['selected']} of {report['users']['total']} users; retraining all to "
        f"its best epoch ({report['best_epoch']['retraining']} of {report['best_epoch']['of']}) costs "
        f"{report['speedup']:.1f} times the time and {report['flops_ratio']:.1f} times the FLOPs "
        f"({report['flops_ratio_with_prefix_cache']:.1f} times with the target's prefix cache counted on both sides)."
    )
    return "\n\n".join(parts)


def _controls(figures: dict[str, Any], whose: str) -> str:
    rows = {
        "own prompts": ("source", "migrated"),
        "one mean prompt for all users": ("source_mean", "migrated_mean"),
        "prompts shuffled among users": ("source_shuffled", "shuffled"),
        "personal gain": ("gain_source", "gain_migrated"),
    }
    table = _markdown(
        [f"{figures['users']} {whose}, RMSE", "source", "target"],
        [[label, f"{figures[one]:.4f}", f"{figures[two]:.4f}"] for label, (one, two) in rows.items()],
    )
    retention = "none to retain" if figures["retention"] is None else format(figures["retention"], ".2f")
    return f"{table}\n\nRetention of the personal gain: {retention}."


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)
