"""``puma-hub evaluate``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result, metrics_table

EXAMPLE = "puma-hub evaluate --model gemma-3-270m --bank target-bank --interactions ratings.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of a bank of this LLM")
    common.add_interactions(parser)


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.evaluation import evaluate_bank

    bank = PromptBank.from_pretrained(args.bank)
    lm = common.load_lm(args.model, args, bank.provenance.template)
    report = evaluate_bank(lm, bank, common.load_rows(args))
    rows = {"own prompts": report["metrics"], **report.get("baselines", {})}
    return Result(f"{report['rows']} rows of {report['users']} users\n{metrics_table(rows)}", report)
