"""``puma-hub demo``."""

from __future__ import annotations

import argparse

from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result, say

EXAMPLE = "puma-hub demo --users 300 --seed 42 --out puma-demo --json report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=whole_number, default=300, help="users drawn from the data (default: 300)")
    parser.add_argument("--rows-per-user", type=whole_number, default=40, help="most recent rows of each (default: 40)")
    parser.add_argument("--seed", type=int, default=42, help="of everything random (default: 42)")
    parser.add_argument(
        "--out", default="puma-demo", metavar="DIR", help="adapter, banks and report (default: puma-demo)"
    )
    parser.add_argument("--models", choices=("wheels", "hub"), default="wheels", help="where the LLMs come from")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the LLMs")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.demo.run import DemoSettings, demo_folders, run_demo
    from puma_hub.demo.table import demo_table

    settings = DemoSettings(
        users=args.users,
        rows_per_user=args.rows_per_user,
        seed=args.seed,
        out=args.out,
        models=args.models,
        dtype=args.dtype,
    )
    folders, working = demo_folders(settings)
    check_outputs(args, folders, working)
    report = run_demo(settings, say)
    return Result(demo_table(report), report)
