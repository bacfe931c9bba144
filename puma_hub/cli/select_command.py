"""``puma-hub select``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result
from puma_hub.extensions import STRATEGIES

EXAMPLE = "puma-hub select --bank source/bank --interactions ratings.csv --budget 2000 --out users.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of the source bank")
    common.add_interactions(parser)
    common.add_choice(parser, "--strategy", STRATEGIES, "puma")
    parser.add_argument("--budget", type=common.whole_number, default=2000, help="the number of users (default: 2000)")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--out", required=True, metavar="FILE", help="list of users to write, one id on each line")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.bank.user_lists import write_users
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.selection import select_users

    check_outputs(args, files=[args.out])
    bank = PromptBank.from_pretrained(args.bank)
    options = dict(args.option)
    users = select_users(bank, common.load_rows(args)["train"], args.strategy, args.budget, args.seed, **options)
    write_users(args.out, users)
    report = {
        "strategy": args.strategy,
        "options": options,
        "budget": args.budget,
        "selected": len(users),
        "users": len(bank),
        "seed": args.seed,
    }
    return Result(f"{len(users)} of {len(bank)} users in {args.out}", report)
