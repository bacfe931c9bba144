"""Running benchmarks within a time, and their report beside an earlier one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tabulate import tabulate

from puma_hub.benchmarks.measured import Measured
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.demo.quiet import quiet
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import BENCHMARKS
from puma_hub.training.report import machine, versions

Figures: TypeAlias = dict[tuple[str, str, str], float]
"""By case, what is measured, and how."""
_COLUMNS = ("ours", "straightforward", "limit", "ratio", "share")


def run_benchmarks(
    names: Sequence[str],
    models: Sequence[str],
    dtype: str,
    device: str | None,
    seconds: float,
    users: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run the cases ``names``, in about ``seconds`` together; what is loaded and written first comes on top.

    Args:
        say: takes a line of progress.

    Raises:
        ConfigurationError: there is no such case, or ``seconds`` is not above 0.
    """
    if not seconds > 0:
        raise ConfigurationError(f"seconds must be above 0, got {seconds!r}")
    cases = {name: BENCHMARKS.bound(name, {}) for name in names}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as place, quiet():
        setting = BenchSetting(tuple(models), dtype, device, seconds / len(cases), users, Path(place), say)
        for number, (name, case) in enumerate(cases.items(), 1):
            say(f"[{number}/{len(cases)}] {BENCHMARKS[name].about}")
            began = time.monotonic()
            found[name] = []
            for one in case(setting):
                say(f"  {one.what}: {one.ours:.4g} {one.unit}")
                found[name].append(one)
            say(f"  {time.monotonic() - began:.0f} s")
    return {
        "cases": {name: [one.to_dict() for one in measured] for name, measured in found.items()},
        "dtype": str(setting.torch_dtype).removeprefix("torch."),
        "device": device,
        "machine": machine(),
        "versions": versions(),
    }


def table_of(report: dict[str, Any], before: Figures | None = None) -> str:
    """The report as a Markdown table, with the change since the figures ``before``."""
    known = before or {}
    rows = []
    for name, measured in report["cases"].items():
        for one in measured:
            earlier = known.get((name, one["what"], one["note"]))
            cells = [name, one["what"], one["unit"], *(one[key] for key in _COLUMNS), one["note"]]
            rows.append(cells if before is None else [*cells, one["ours"] / earlier if earlier else None])
    headers = ["case", "what", "unit", "ours", "straightforward", "limit", "times better", "of the limit", "how"]
    headers += ["ours / before"] if before is not None else []
    return tabulate(rows, headers, tablefmt="github", floatfmt=".4g")


def figures_of(report: dict[str, Any]) -> Figures:
    """Our figures in a report.

    Raises:
        ConfigurationError: it is no report of benchmarks.
    """
    try:
        return {
            (name, one["what"], one["note"]): float(one["ours"])
            for name, measured in report["cases"].items()
            for one in measured
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"the report to compare with is none of puma-hub bench --json ({type(error).__name__})"
        ) from error
