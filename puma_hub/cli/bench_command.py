"""``puma-hub bench``."""

from __future__ import annotations

import argparse

from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result, say

EXAMPLE = "puma-hub bench step --model gemma-3-270m --dtype bfloat16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("step",), help="step: one training step of an adapter")
    parser.add_argument("--model", default="gemma-3-270m", metavar="ID", help="target LLM (default: gemma-3-270m)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="dtype of both LLMs")
    parser.add_argument("--batch-size", type=whole_number, default=128, help="rows in our step (default: 128)")
    parser.add_argument("--repeats", type=whole_number, default=5, help="timed steps of each kind (default: 5)")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.benchmarks.step import bench_step, bench_table

    report = bench_step(args.model, args.dtype, args.batch_size, args.repeats, say)
    return Result(bench_table(report), report)
