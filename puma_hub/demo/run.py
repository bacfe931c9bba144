"""The whole of PUMA on real models and real users, as the steps a user would type."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.adapter.made_anew import Earlier, save_anew
from puma_hub.bank.folder import LAYOUT
from puma_hub.data import rows_by_user
from puma_hub.demo.demo_report import DemoResults, demo_facts, demo_report
from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.fetch import fetch
from puma_hub.demo.load_model import load_model
from puma_hub.demo.picture import PICTURE, draw
from puma_hub.demo.planned_work import planned_work
from puma_hub.demo.quiet import quiet
from puma_hub.demo.settings import DATA, SOURCE_MODEL, TARGET_MODEL, DemoSettings
from puma_hub.demo.source_side import on_source
from puma_hub.demo.stages import Stages
from puma_hub.demo.target_side import on_target
from puma_hub.demo.unseen import PAGE, PAGE_DATA, write_unseen_report
from puma_hub.evaluation.pictures import require_matplotlib, require_own_file
from puma_hub.evaluation.report.page import require_page
from puma_hub.storage import write_json
from puma_hub.storage.layout import Layout, require_replaceable
from puma_hub.training.report import require_own_report


def run_demo(settings: DemoSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every step and leave adapter, banks, reports and picture in ``settings.out``; return the demo's report.

    Raises:
        MissingDependencyError: a package of the extra ``demo`` is not installed.
        StorageError: there is something in ``settings.out`` under a name of these that is not ours.
    """
    require_matplotlib(f"the demo draws {PICTURE}")
    out = Path(settings.out)
    for target, layout in demo_folders(settings)[0].items():
        require_replaceable(target, layout)
    earlier = Earlier.read(out / "adapter")
    for name in ("report.json", PAGE_DATA):
        require_own_report(out / name)
    require_own_file(out / PICTURE)
    require_page(out / PAGE)
    with quiet():
        return _run(settings, out, earlier, say)


def _run(settings: DemoSettings, out: Path, earlier: Earlier, say: Callable[[str], None]) -> dict[str, Any]:
    start = time.monotonic()
    rows = DemoRows.load(fetch(DATA, say), settings)
    counts = {name: f"{len(part):,}" for name, part in rows.splits.items()}
    users = len(rows_by_user(rows.splits["train"]))
    say(f"{DATA}: {counts['train']} training, {counts['validation']} held-out rows of {users} users")
    stages = Stages(say, planned_work(rows, settings))
    # One LLM after the other: the first one's weights and caches are freed before the second one is loaded.
    source = on_source(load_model(SOURCE_MODEL, settings, say), rows, settings, stages)

    def keep(adapter: PumaAdapter) -> None:
        save_anew(adapter, out / "adapter", AdapterFacts(), earlier, say)

    target = on_target(load_model(TARGET_MODEL, settings, say), rows, source, settings, stages, keep)
    results = DemoResults(settings, rows, source, target, time.monotonic() - start, stages.seconds)
    report = demo_report(results)
    write_json(out / "report.json", report)
    draw(results, report, out / PICTURE)
    facts = demo_facts(results, report)
    write_unseen_report(results, facts.training, report["flops"]["adapter"], out)
    save_anew(target.adapter, out / "adapter", facts, Earlier.read(out / "adapter"), say)
    return report


def demo_folders(settings: DemoSettings) -> tuple[dict[str, Layout], list[str]]:
    """What the demo replaces as a whole, and the folders it writes files in."""
    banks, working = ("source-bank", "migrated-bank"), ("adapter", "work")
    return {f"{settings.out}/{name}": LAYOUT for name in banks}, [f"{settings.out}/{name}" for name in working]
