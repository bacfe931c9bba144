"""``puma-hub report``."""

from __future__ import annotations

import argparse
from typing import Any

from puma_hub.cli import common, processes, reading, reported, sides
from puma_hub.cli.output import Result, metrics_table

EXAMPLE = (
    "puma-hub report --source smollm2-135m --source-bank source/bank --model gemma-3-270m --bank target-bank "
    "--interactions ratings.csv --trained-users users.txt --out report.html --json report.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sides.add_sides(parser)
    reading.add_interactions(parser)
    reading.add_allow_training_rows(parser)
    reported.add_reported_users(parser)
    parser.add_argument("--adapter", metavar="ID", help="the adapter that migrated the bank, to tell what it cost")
    parser.add_argument("--out", required=True, metavar="FILE", help="the report as one HTML page")
    parser.add_argument(
        "--resamples", type=common.whole_number, help="resamples of users, for the intervals (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of everything random (default: 42)")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.evaluation.report.bootstrap import RESAMPLES, Bootstrap
    from puma_hub.evaluation.report.migration import migration_report
    from puma_hub.evaluation.report.page import require_page
    from puma_hub.evaluation.reported_users import ReportedUsers

    check_outputs(args, files=[args.out])
    require_page(args.out)
    resamples = args.resamples or RESAMPLES
    Bootstrap(1, resamples, args.seed)  # refused before the LLMs are loaded
    before, after = sides.load_banks(args)
    only, trained = reported.read_lists(args)
    ReportedUsers.of([*before.user_ids, *after.user_ids], only, trained)  # refused before the LLMs are loaded
    source_lm, target_lm = sides.load_lms(args, before, after)
    adapter = _adapter(args.adapter) if args.adapter else None
    report = migration_report(
        source_lm,
        before,
        target_lm,
        after,
        reading.load_rows(args),
        users=only,
        trained_users=trained,
        seed=args.seed,
        resamples=resamples,
        allow_training_rows=args.allow_training_rows,
        adapter=adapter,
    )
    if processes.is_main():
        report.save(args.out)
    return Result(f"{_summary(report.data)}\nthe report is in {args.out}", report.data)


def _adapter(name: str) -> Any:
    from puma_hub.adapter import PumaAdapter

    return PumaAdapter.from_pretrained(name)


def _summary(data: dict[str, Any]) -> str:
    figures, clearly = data["figures"][data["metric"]], data["worse"]["clearly"]
    names = ("own", "mean", "shuffled", "gain")
    table = {
        side: {name: figures[side][name]["estimate"] for name in names if name in figures[side]}
        for side in ("source", "target")
    }
    lines = [
        f"{data['metric']} on {data['rows']} rows of {data['users']} users",
        f"reported on: {data['reported_users']['described']}",
        metrics_table(table),
        f"worse on the target by {_interval(figures['worsening'])}",
        f"retention {_interval(figures['retention'])}",
        f"correlation of the answers {_interval(data['agreement']['pearson'])}",
        f"drift {_interval(data['drift']['all']['drift'])}",
    ]
    if clearly["by_noise"]:
        lines.append(
            f"{clearly['worse']} of {clearly['users']} users clearly worse, {clearly['better']} clearly better; by "
            f"noise alone {clearly['by_noise']['expected'] * clearly['users']:.0f} each"
        )
    return "\n".join([*lines, *data["notes"]])


def _interval(found: dict[str, float | None]) -> str:
    if found["estimate"] is None:
        return "not defined"
    ends = ["..." if found[end] is None else f"{found[end]:.4f}" for end in ("low", "high")]
    return f"{found['estimate']:.4f} ({' to '.join(ends)})"
