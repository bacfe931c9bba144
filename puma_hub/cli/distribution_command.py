"""``puma-hub distribution``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.output import Result

EXAMPLE = "puma-hub distribution --bank source/bank --out prompts.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of a bank")
    parser.add_argument(
        "--rank", type=common.whole_number, default=64, help="directions of the covariance, at most (default: 64)"
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        help="add noise that makes the covariance differentially private; 1 is strict, and takes thousands of users",
    )
    parser.add_argument("--delta", type=float, default=1e-6, help="of this guarantee (default: 1e-6)")
    parser.add_argument("--out", required=True, metavar="FILE", help="a safetensors file that holds no user's prompt")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank import PromptBank
    from puma_hub.bank.distribution import PromptDistribution
    from puma_hub.bank.privacy import PrivacyBudget
    from puma_hub.cli.outputs import check_outputs

    check_outputs(args, files=[args.out])
    privacy = None if args.epsilon is None else PrivacyBudget(args.epsilon, args.delta)
    found = PromptDistribution.of(PromptBank.from_pretrained(args.bank), args.rank, privacy=privacy)
    found.save(args.out)
    report: dict[str, object] = {
        "users": found.users,
        "rank": len(found.factors),
        "noise_variance": found.noise_variance,
    }
    report |= {} if privacy is None else {"privacy": privacy.to_dict()}
    return Result(f"the distribution of {found.users} users' prompts is in {args.out}", report)
