"""``puma-hub demo``."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result, say

if TYPE_CHECKING:
    from puma_hub.demo.settings import DemoSettings

EXAMPLE = "puma-hub demo --seed 42 --out puma-demo --json report.json"
_USERS = 60  # DemoSettings' own default, without importing torch for --help
_COST = (
    "It needs no GPU and no account. On 2 ordinary cores the default takes 5 to 7 minutes (AVX2, float32), or 2 to 3 "
    "where the processor computes in bfloat16. The first run also downloads 0.4 GB. Below 300 users it keeps the rows "
    "of the 200 items with the most ratings, so that few texts are read. --users 300 gives the full report on all "
    "items, in about four times the time."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description or ''} {_COST}".strip()
    parser.add_argument(
        "--users", type=whole_number, default=_USERS, help=f"users drawn from the data (default: {_USERS})"
    )
    parser.add_argument("--rows-per-user", type=whole_number, default=40, help="most recent rows of each (default: 40)")
    parser.add_argument("--seed", type=int, default=42, help="seed of everything random (default: 42)")
    parser.add_argument(
        "--out", default="puma-demo", metavar="DIR", help="adapter, banks, reports and demo.png (default: puma-demo)"
    )
    parser.add_argument("--models", choices=("wheels", "hub"), default="wheels", help="where the LLMs come from")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="dtype of the LLMs")
    parser.add_argument(
        "--ui",
        action="store_true",
        help="then show both LLMs' scores in a browser, at an address of this machine; a finished demo in DIR with the "
        "same settings is not run again",
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.demo.finished import finished_demo
    from puma_hub.demo.picture import PICTURE
    from puma_hub.demo.run import demo_folders, run_demo
    from puma_hub.demo.settings import DemoSettings
    from puma_hub.demo.table import demo_table
    from puma_hub.demo.unseen import PAGE

    settings = DemoSettings(
        users=args.users,
        rows_per_user=args.rows_per_user,
        seed=args.seed,
        out=args.out,
        models=args.models,
        dtype=args.dtype,
    )
    report = None
    if args.ui:
        from puma_hub.space.app import gradio_module

        gradio_module()  # if it is missing, that is said now and not after the demo
        report = finished_demo(settings)
    if report is None:
        folders, working = demo_folders(settings)
        check_outputs(args, folders, working)
        report = run_demo(settings, say)
    say(f"adapter, banks, {PICTURE}, report.json and {PAGE}, on the users the adapter never saw, are in {args.out}")
    return Result(demo_table(report), report, partial(_show, settings, report) if args.ui else None)


def _show(settings: DemoSettings, report: dict[str, Any]) -> None:
    from puma_hub.space import build_app, launch
    from puma_hub.space.demo import demo_content

    launch(build_app(demo_content(settings, report, say)), say=say)
