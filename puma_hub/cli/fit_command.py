"""``puma-hub fit``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result

EXAMPLE = "puma-hub fit --model smollm2-135m --interactions ratings.csv --out source-bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    common.add_interactions(parser)
    common.add_training(parser)
    parser.add_argument(
        "--method", choices=("shared", "independent"), default="shared", help="base plus offsets, or as in the paper"
    )
    parser.add_argument("--prompt-length", type=common.whole_number, default=1, help="soft tokens a user (default: 1)")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank.storage import LAYOUT
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.training import PromptTrainer

    check_outputs(args, {f"{args.out}/bank": LAYOUT}, working=common.training_folders(args))
    arguments = common.training_arguments(args, prompt_method=args.method, prompt_length=args.prompt_length)
    trainer = PromptTrainer(common.load_lm(args.model, args, args.template), common.load_rows(args)["train"], arguments)
    bank = trainer.train()
    if common.is_main_process():
        bank.save_to_disk(f"{args.out}/bank")
    return Result(f"{bank} in {args.out}/bank", trainer.report)
