"""``puma-hub bench``."""

from __future__ import annotations

import argparse

from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result, say
from puma_hub.extensions import BENCHMARKS

EXAMPLE = "puma-hub bench step --model gemma-3-270m --dtype bfloat16 --json step.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = "; ".join(f"{name}: {one.about}" for name, one in BENCHMARKS.items())
    parser.add_argument(
        "cases", nargs="*", choices=[*BENCHMARKS, []], metavar="CASE", help=f"{known} (default: all of them)"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="ID",
        help="an LLM of the cases that have one, a fetched model, a folder, or random weights in a size such as "
        "random-llama-3.2-1b; may be repeated (default: both models of the demo)",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the LLMs (default: auto, the fastest here)",
    )
    parser.add_argument("--device", help="of the LLMs, such as cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all cases together, about (default: 120)")
    parser.add_argument(
        "--users", type=whole_number, default=100_000, help="of select, migrate, bank and store (default: 100000)"
    )
    parser.add_argument("--compare", metavar="FILE", help="a report of --json to compare with")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.benchmarks.suite import figures_of, run_benchmarks, table_of
    from puma_hub.storage import read_json

    before = figures_of(read_json(args.compare)) if args.compare else None  # before work is done that would be lost
    names, models = args.cases or [*BENCHMARKS], args.model or ["smollm2-135m", "gemma-3-270m"]
    report = run_benchmarks(names, models, args.dtype, args.device, args.seconds, args.users, say)
    return Result(table_of(report, before), report)
