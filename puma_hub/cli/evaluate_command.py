"""``puma-hub evaluate``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common, reading, reported
from puma_hub.cli.output import Result, metrics_table

CONTROLS = {"mean": "one mean prompt for all users", "shuffled": "prompts shuffled among users"}
EXAMPLE = "puma-hub evaluate --model gemma-3-270m --bank target-bank --interactions ratings.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of a bank of this LLM")
    parser.add_argument("--item-bank", metavar="ID", help="the items' bank, for a template with <item_prompt>")
    reading.add_interactions(parser)
    reading.add_allow_training_rows(parser)
    reported.add_reported_users(parser)
    parser.add_argument(
        "--controls", action="store_true", help="evaluate one mean prompt for all users, and shuffled prompts, too"
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.evaluation.compare import controls_of
    from puma_hub.evaluation.evaluate import HeldOut, evaluate_rows

    bank = PromptBank.from_pretrained(args.bank)
    whom = reported.reported_users(args, [bank])
    lm = common.load_lm(args.model, args, args.template or bank.provenance.template)
    splits = reading.load_rows(args)
    items = PromptBank.from_pretrained(args.item_bank) if args.item_bank is not None else None
    held_out = HeldOut.build(
        lm,
        bank,
        whom.kept(splits["validation"], bank.user_ids),
        users=whom.user_ids,
        train=splits["train"],
        allow_training_rows=args.allow_training_rows,
        items=items,
    )
    report = evaluate_rows(held_out, splits["train"]) | {"reported_users": whom.facts()}
    rows = {"own prompts": report["metrics"]}
    if items is not None:
        rows["one mean prompt for all items"] = report["item_prompts"]["metrics_with_mean"]
    rows |= report.get("baselines", {})
    if args.controls:
        report["controls"] = found = controls_of(held_out, whom.user_ids)
        rows |= {label: {found["metric"]: found[name]} for name, label in CONTROLS.items()}
    notes = dict.fromkeys([*report["notes"], *report.get("controls", {}).get("notes", ())])
    counts = "".join(f", {count} {name.replace('_', ' ')}" for name, count in report["counts"].items())
    head = f"{report['rows']} rows of {report['users']} users{counts}\nreported on: {whom}"
    return Result("\n".join([head, metrics_table(rows), *notes]), report)
