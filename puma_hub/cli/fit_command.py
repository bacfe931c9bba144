"""``puma-hub fit``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common, processes, reading
from puma_hub.cli.output import Result

EXAMPLE = "puma-hub fit --model smollm2-135m --interactions ratings.csv --out source-bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    reading.add_interactions(parser)
    common.add_training(parser)
    parser.add_argument(
        "--method",
        choices=("posterior", "shared", "independent"),
        help="one base plus an offset for each user, solved for (the default) or trained; or as in the paper",
    )
    parser.add_argument("--prompt-length", type=common.whole_number, help="soft tokens for each user (default: 1)")
    parser.add_argument(
        "--bank",
        metavar="ID",
        help="folder or Hub id of a bank of this LLM to add users to; its base and head are used and not changed",
    )
    parser.add_argument(
        "--given",
        metavar="ID",
        help="folder or Hub id of a bank of users of this LLM: train prompts of items beside theirs, for a template "
        "with <item_prompt>; or one of items, to train users' prompts beside those",
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.bank.folder import LAYOUT
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.training import PromptTrainer

    check_outputs(args, {f"{args.out}/bank": LAYOUT}, working=common.training_folders(args))
    before = PromptBank.from_pretrained(args.bank) if args.bank is not None else None
    given = PromptBank.from_pretrained(args.given) if args.given is not None else None
    known = [bank.provenance.template for bank in (before, given) if bank is not None]
    template = args.template or (known[0] if known else None)
    arguments = common.training_arguments(args, prompt_method=args.method, prompt_length=args.prompt_length)
    lm = common.load_lm(args.model, args, template)
    trainer = PromptTrainer(lm, reading.load_rows(args)["train"], arguments, bank=before, given=given)
    bank = trainer.train(common.resume_from(args))
    if processes.is_main():
        bank.save_pretrained(f"{args.out}/bank")
    joined = trainer.report.get("bank")
    how = "" if joined is None else f", {joined['added']} {trainer.owners.name} added and {joined['renewed']} retrained"
    return Result(f"{bank} in {args.out}/bank{how}", trainer.report)
