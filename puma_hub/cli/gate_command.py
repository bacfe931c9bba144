"""``puma-hub gate``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result

EXAMPLE = "puma-hub gate --report report.json --min-retention 0.8 --max-worse-share 0.1 --by interval"

_CONDITIONS = (
    ("min_retention", float, "share of the personal gain that is kept, such as 0.8"),
    ("max_worse_share", float, "share of users who are clearly worse, beyond what noise alone shows, such as 0.05"),
    ("max_worsening", float, "how much worse the main metric may be, in its own unit, such as 0.02"),
    ("min_correlation", float, "Pearson's correlation of both systems' answers, such as 0.9"),
    ("max_drift", float, "change of the mean answer, up or down, such as 0.05"),
    ("min_users", common.whole_number, "users with held-out rows"),
    ("min_rows", common.whole_number, "held-out rows"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", required=True, metavar="FILE", help="what puma-hub report --json wrote")
    for name, kind, text in _CONDITIONS:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(
            flag, type=kind, metavar="N", help=f"{'at least' if name.startswith('min') else 'at most'} this {text}"
        )
    parser.add_argument(
        "--by",
        default="estimate",
        choices=("estimate", "interval"),
        help="compare the estimate, or the bound of its 95 %% interval that is the worse one (default: estimate)",
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.evaluation.gate import Gate
    from puma_hub.storage import read_json

    gate = Gate(**{name: getattr(args, name) for name, _, _ in _CONDITIONS}, by=args.by)
    verdict = gate.judge(read_json(args.report))
    return Result("\n".join(map(str, verdict.outcomes)), verdict.to_dict(), status=0 if verdict.passed else 1)
