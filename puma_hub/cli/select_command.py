"""``puma-hub select``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common, processes, reading
from puma_hub.cli.output import Result
from puma_hub.extensions import STRATEGIES

EXAMPLE = "puma-hub select --bank source/bank --interactions ratings.csv --budget 2000 --out users.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of the source bank")
    reading.add_interactions(parser)
    common.add_choice(parser, "--strategy", STRATEGIES, "puma")
    common.add_model(parser, why="the bank's LLM, which strategies by loss or FFN activations ask")
    parser.add_argument("--budget", type=common.whole_number, default=2000, help="the number of users (default: 2000)")
    parser.add_argument(
        "--among",
        type=common.whole_number,
        metavar="N",
        help="choose among N users, drawn at random: for banks whose prompts do not fit into memory",
    )
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--out", required=True, metavar="FILE", help="list of users to write, one id on each line")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.bank.user_lists import write_users
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.selection import select_users

    check_outputs(args, files=[args.out])
    options = dict(args.option)
    if args.model:
        _require_asked(args.strategy)
    bank = PromptBank.from_pretrained(args.bank)
    rows = reading.load_rows(args)["train"]
    asked = {"lm": common.load_lm(args.model, args, args.template or bank.provenance.template)} if args.model else {}
    given = {**options, **asked}
    users = select_users(bank, rows, args.strategy, args.budget, args.seed, among=args.among, **given)
    if processes.is_main():
        write_users(args.out, users)
    report = {
        "strategy": args.strategy,
        "options": options,
        "model": args.model,
        "budget": args.budget,
        "among": args.among,
        "selected": len(users),
        "users": len(bank),
        "seed": args.seed,
    }
    return Result(f"{len(users)} of {len(bank)} users in {args.out}", report)


def _require_asked(strategy: str) -> None:
    from puma_hub.errors import ConfigurationError

    if "lm" not in STRATEGIES.options(strategy):
        asking = [name for name in STRATEGIES if "lm" in STRATEGIES.options(name)]
        raise ConfigurationError(
            f"the strategy {strategy!r} asks no LLM; leave --model out, or choose one of {', '.join(asking)}"
        )
