"""``puma-hub search``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puma_hub.cli import common
from puma_hub.cli.output import Result, table

if TYPE_CHECKING:
    from puma_hub.registry.published import PublishedAdapter

EXAMPLE = "puma-hub search --source HuggingFaceTB/SmolLM2-135M-Instruct --target google/gemma-3-270m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="ID", help="the LLM to migrate prompts from, or a bank's folder")
    parser.add_argument("--target", metavar="ID", help="the LLM to migrate prompts to")
    parser.add_argument("--namespace", metavar="NAME", help="only adapters of this user or organisation")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.registry.find import find_adapters

    source = common.model_of(args.source) if args.source else None
    found = find_adapters(source, args.target, namespace=args.namespace)
    text = "no such adapter is published, or this token may not see it"
    if found:
        columns, rows = ["repository", "pair", "loss", "evaluated on", "downloads", "likes"], [_row(a) for a in found]
        if any(adapter.new_version is not None for adapter in found):
            columns.append("superseded by")
            rows = [(*row, adapter.new_version or "") for row, adapter in zip(rows, found)]
        text = table(columns, rows)
    return Result(text, {"adapters": [adapter.to_dict() for adapter in found]})


def _row(adapter: PublishedAdapter) -> tuple[str, ...]:
    loss = "not reported" if adapter.loss is None else f"{adapter.loss:.1%}"
    datasets = ", ".join(dict.fromkeys(evaluation.dataset for evaluation in adapter.evaluations))
    return adapter.repo_id, adapter.pair, loss, datasets, str(adapter.downloads), str(adapter.likes)
