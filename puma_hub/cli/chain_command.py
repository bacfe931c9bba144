"""``puma-hub chain``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common
from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result, say

EXAMPLE = "puma-hub chain --bank source/bank --to google/gemma-3-270m --out target-bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bank",
        required=True,
        action="append",
        metavar="ID",
        help="folder or Hub id of the source bank; one for each source",
    )
    steps = parser.add_mutually_exclusive_group(required=True)
    steps.add_argument("--adapter", action="append", metavar="ID", help="folder or Hub id of a step, in order")
    steps.add_argument("--to", metavar="ID", help="target LLM: take the cheapest published route to it")
    parser.add_argument("--namespace", metavar="NAME", help="with --to: only adapters of this user or organisation")
    parser.add_argument("--batch-size", type=whole_number, default=4096, help="prompts in a batch (default: 4096)")
    common.add_mean(parser)
    common.add_missing(parser)
    common.add_dtype(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the target bank")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.bank import PromptBank
    from puma_hub.bank.folder import LAYOUT
    from puma_hub.bank.lineage import lineage_lines
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.errors import ConfigurationError
    from puma_hub.migration import chain_to
    from puma_hub.registry.route import find_route

    check_outputs(args, {args.out: LAYOUT})
    banks = [PromptBank.from_pretrained(name) for name in args.bank]
    report: dict[str, object] = {}
    if args.to:
        if len(banks) != 1:
            raise ConfigurationError(f"a route starts from one bank, got {len(banks)}; name the steps (--adapter)")
        route = find_route(banks[0].model, args.to, namespace=args.namespace)
        say(str(route))
        report["route"] = route.to_dict()
        steps = route.load()
    else:
        steps = [PumaAdapter.from_pretrained(name) for name in args.adapter]
    migrated = chain_to(
        args.out,
        banks,
        steps,
        batch_size=args.batch_size,
        mean=common.means_of(args.mean),
        missing=args.missing,
        dtype=args.dtype,
    )
    first = migrated.provenance.lineage[-len(steps)]["details"]
    report |= {
        "users": len(migrated),
        "users_left_out": first["users_left_out"],
        "missing": first.get("missing"),
        "steps": len(steps),
        "lineage": lineage_lines(migrated.provenance.lineage),
    }
    return Result(f"{migrated} after {len(steps)} step(s), in {args.out}", report)
