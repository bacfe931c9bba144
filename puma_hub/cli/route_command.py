"""``puma-hub route``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result, table

EXAMPLE = "puma-hub route HuggingFaceTB/SmolLM2-135M-Instruct google/gemma-3-270m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="id of the LLM the prompts are for, or a bank's folder")
    parser.add_argument("target", metavar="TARGET", help="id of the LLM to migrate them to")
    parser.add_argument("--namespace", metavar="NAME", help="only adapters of this user or organisation")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.registry.route import find_route, step_loss

    route = find_route(common.model_of(args.source), args.target, namespace=args.namespace)
    rows = [
        (
            str(number),
            adapter.pair,
            adapter.repo_id,
            f"{step_loss(adapter):.1%}" + ("" if adapter.loss is not None else " (assumed, not reported)"),
        )
        for number, adapter in enumerate(route, 1)
    ]
    return Result(f"{table(('step', 'pair', 'repository', 'loss'), rows)}\n{route}", route.to_dict())
