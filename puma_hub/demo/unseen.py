"""The report on the users that the adapter never saw: a page and its data, as puma-hub report writes them."""

from __future__ import annotations

from pathlib import Path

from puma_hub.adapter.facts import Training
from puma_hub.demo.demo_report import DemoResults
from puma_hub.evaluation.compare import Sides
from puma_hub.evaluation.report.migration import report_of_sides
from puma_hub.evaluation.report.origin import cost_facts
from puma_hub.evaluation.reported_users import ReportedUsers
from puma_hub.storage import write_json

PAGE, PAGE_DATA = "report.html", "migration.json"


def write_unseen_report(results: DemoResults, training: Training | None, flops: float, out: Path) -> None:
    """Leave the page and its data in the demo's folder, from the predictions that are there; no LLM is asked.

    Args:
        training: what the adapter's card tells of its training.
        flops: of this training.
    """
    source, target = results.source, results.target
    before, held_out = source.unseen, results.rows.splits["validation"]
    sides = Sides(
        before,
        target.unseen,
        {"users_in_one_bank": 0, "users_without_rows": len(source.unseen_users) - len(set(before.row_users))},
        len(held_out) - len(before.labels),
        (0, 0),
    )
    report = report_of_sides(
        sides,
        source.bank,
        target.bank,
        ReportedUsers.of(source.bank.user_ids, trained=source.chosen),
        train=results.rows.splits["train"],
        cost=cost_facts(target.adapter, training, flops),
        seed=results.settings.seed,
    )
    report.save(out / PAGE)
    write_json(out / PAGE_DATA, report.data)
