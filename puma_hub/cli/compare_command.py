"""``puma-hub compare``."""

from __future__ import annotations

import argparse

from puma_hub.cli import reading, reported, sides
from puma_hub.cli.output import Result, metrics_table

EXAMPLE = (
    "puma-hub compare --source smollm2-135m --source-bank source/bank --model gemma-3-270m --bank target-bank "
    "--interactions ratings.csv"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sides.add_sides(parser)
    reading.add_interactions(parser)
    reading.add_allow_training_rows(parser)
    reported.add_reported_users(parser)
    parser.add_argument("--seed", type=int, default=42, help="seed of the shuffled prompts (default: 42)")
    parser.add_argument("--show-users", action="store_true", help="keep the ids of users who got worse in the report")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.evaluation import compare_banks

    before, after = sides.load_banks(args)
    whom = reported.reported_users(args, [before, after])
    source_lm, target_lm = sides.load_lms(args, before, after)
    rows = reading.load_rows(args)["validation"]
    report = compare_banks(
        source_lm,
        before,
        target_lm,
        after,
        rows,
        users=whom.user_ids,
        seed=args.seed,
        allow_training_rows=args.allow_training_rows,
    )
    report["reported_users"] = whom.facts()
    if not args.show_users:
        del report["worse_user_ids"]  # ids are personal
    names = ("own", "mean", "shuffled", "gain")
    table = metrics_table({side: {name: report[side][name] for name in names} for side in ("source", "target")})
    retention = "none to retain" if report["retention"] is None else format(report["retention"], ".2f")
    text = f"{report['source']['metric']} on {report['source']['rows']} rows of {report['users']} users"
    return Result(
        f"{text}\nreported on: {whom}\n{table}\nretention {retention}; {report['worse_users']} users got worse", report
    )
