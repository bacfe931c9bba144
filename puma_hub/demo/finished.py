"""A demo that was run before: whether its output is complete, and of the same settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.bank import PromptBank
from puma_hub.demo.demo_report import settings_in_report
from puma_hub.demo.picture import PICTURE
from puma_hub.demo.quiet import quiet
from puma_hub.demo.settings import DemoSettings
from puma_hub.demo.unseen import PAGE, PAGE_DATA
from puma_hub.errors import ConfigurationError, PumaHubError
from puma_hub.migration import migrate
from puma_hub.storage import read_json

_ROUNDING = 1e-3  # of the migrated prompts' standard deviation among users; another machine may add in another order


def finished_demo(settings: DemoSettings) -> dict[str, Any] | None:
    """The report of a finished demo in ``settings.out``; None if there is none, or a later run replaced a part of it.

    Raises:
        ConfigurationError: the finished demo there has other settings.
    """
    out = Path(settings.out)
    try:
        report = read_json(out / "report.json")
        with quiet():
            complete = _is_complete(out, report)
    except (PumaHubError, KeyError, AttributeError, TypeError):  # missing, damaged, or of something else
        return None
    if not complete:
        return None
    there, wanted = report["settings"], settings_in_report(settings)
    other = [f"{name} {there.get(name)}, not {value}" for name, value in wanted.items() if there.get(name) != value]
    if other:
        raise ConfigurationError(
            f"the demo in {out} was run with other settings ({'; '.join(other)}); give the same ones or another --out, "
            "or run the demo again without --ui"
        )
    return report


def _is_complete(out: Path, report: dict[str, Any]) -> bool:
    """Whether reports, picture, adapter and banks are those of one run, to its end."""
    facts = AdapterFacts.read(out / "adapter")  # what it was evaluated by is written last
    files = (PICTURE, PAGE, PAGE_DATA)
    if facts is None or not facts.evaluations or not all((out / name).is_file() for name in files):
        return False
    told = {name: figures["rmse"] for name, figures in facts.evaluations[0].metrics.items()}
    if told != report["rmse"]:
        return False
    source, target = (PromptBank.from_pretrained(out / f"{name}-bank") for name in ("source", "migrated"))
    if source.user_ids != target.user_ids:
        return False
    again, kept = migrate(PumaAdapter.from_pretrained(out / "adapter"), source).prompts, target.prompts
    return bool(np.abs(again - kept).max() <= _ROUNDING * (kept - kept.mean(axis=0)).std())
