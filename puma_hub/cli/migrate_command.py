"""``puma-hub migrate``."""

from __future__ import annotations

import argparse

from puma_hub.cli import common, processes
from puma_hub.cli.common import whole_number
from puma_hub.cli.output import Result
from puma_hub.extensions import ENGINES

EXAMPLE = "puma-hub migrate --adapter migrator/adapter --bank source/bank --out target-bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", required=True, metavar="ID", help="folder or Hub id of an adapter")
    parser.add_argument(
        "--bank",
        required=True,
        action="append",
        metavar="ID",
        help="folder or Hub id of the source bank, or an address such as s3://bucket/bank; one for each source",
    )
    parser.add_argument("--batch-size", type=whole_number, default=4096, help="prompts in a batch (default: 4096)")
    common.add_choice(parser, "--engine", ENGINES, "torch")
    common.add_mean(parser)
    common.add_missing(parser)
    common.add_dtype(parser)
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="one of N processes, which migrate every N-th file; who finds all files there puts the bank in its place",
    )
    parser.add_argument(
        "--since",
        metavar="ID",
        help="the source bank as it was when --out was made: only users who are new or changed are migrated, those who "
        "are gone are deleted, the others' prompts stay as they are",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the target bank: a folder, or an address")


def run(args: argparse.Namespace) -> Result:
    import time

    from puma_hub.adapter import PumaAdapter
    from puma_hub.bank import PromptBank
    from puma_hub.bank.folder import LAYOUT
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.errors import ConfigurationError
    from puma_hub.hub.buckets import is_bucket
    from puma_hub.migration import Share, migrate_changes, migrate_share
    from puma_hub.migration.share import ALL
    from puma_hub.storage.places import is_address

    if is_bucket(args.out):
        raise ConfigurationError(
            f"{args.out} is a bucket; migrate to a folder, and publish that with puma-hub push FOLDER BUCKET --bucket"
        )
    if is_address(args.out) or any(is_address(name) and not is_bucket(name) for name in args.bank):
        return _between_places(args)
    check_outputs(args, {args.out: LAYOUT})
    share = Share.parse(args.shard) if args.shard is not None else ALL
    if processes.count() > 1:
        _require_files(args)
        share = Share(processes.number() + 1, processes.count())
    banks = [PromptBank.from_pretrained(name) for name in args.bank]
    adapter = PumaAdapter.from_pretrained(args.adapter)
    given = {"batch_size": args.batch_size, "engine": args.engine, **dict(args.option)}
    start = time.monotonic()
    kept = 0
    if args.since is not None:
        _require_alone(args)
        migrated, kept = migrate_changes(args.out, adapter, banks[0], PromptBank.from_pretrained(args.since), **given)
    else:
        mean = common.means_of(args.mean)
        found = migrate_share(
            args.out, adapter, banks, share, mean=mean, missing=args.missing, dtype=args.dtype, **given
        )
        processes.wait_for_all()
        if found is None and processes.count() > 1:
            found = PromptBank.from_pretrained(args.out)
        if found is None:
            seconds = time.monotonic() - start
            return Result(
                f"share {args.shard} is done; files of other shares are not", {"seconds": seconds, "done": False}
            )
        migrated = found
    seconds = time.monotonic() - start
    report = {
        "users": len(migrated),
        "users_kept": kept,
        "users_left_out": migrated.provenance.details["users_left_out"],
        "missing": migrated.provenance.details.get("missing"),
        "own_source_bank": migrated.provenance.details.get("own_source_bank"),
        "rounded": migrated.provenance.details.get("rounded"),
        "seconds": seconds,
    }
    told = f"\n{kept} users kept their migrated prompts" if args.since is not None else ""
    if isinstance(report["rounded"], dict):
        told += f"\nprompts are rounded to {report['rounded']['dtype']}"
        if report["rounded"]["error"] is not None:
            told += f", which changes them by {report['rounded']['error']:.2%} of their spread around the mean"
    if report["own_source_bank"] is False:
        told += (
            "\nthe bank and the adapter's source bank come from separate trainings, so the bank was standardised by "
            "its own mean; the rating head is the adapter's: puma-hub calibrate fits it to a few rated rows, and "
            "puma-hub compare shows the results for these users"
        )
    return Result(f"{migrated} in {args.out}{told}", report)


def _between_places(args: argparse.Namespace) -> Result:
    """Migrate from and to addresses such as ``s3://bucket/bank``."""
    import time

    from puma_hub.adapter import PumaAdapter
    from puma_hub.errors import ConfigurationError, without_secrets
    from puma_hub.migration.remote import migrate_between

    if len(args.bank) > 1 or args.missing != "leave-out" or args.shard or args.since or processes.count() > 1:
        raise ConfigurationError(
            "from or to an address one process migrates one bank, and --engine ray shares it among machines; leave "
            "--missing, --shard, --since and further banks out, or give folders"
        )
    start = time.monotonic()
    mean = common.means_of(args.mean)
    given = {"batch_size": args.batch_size, "engine": args.engine, "dtype": args.dtype, **dict(args.option)}
    users = migrate_between(args.out, PumaAdapter.from_pretrained(args.adapter), args.bank[0], mean=mean, **given)
    report = {"users": users, "seconds": time.monotonic() - start}
    return Result(f"{users} prompts in {without_secrets(args.out)}", report)


def _require_files(args: argparse.Namespace) -> None:
    from puma_hub.errors import ConfigurationError

    if args.shard is not None or args.since is not None or args.engine != "torch":
        raise ConfigurationError(
            "of several processes each migrates a part of the files with the engine torch; leave --shard, "
            "--since and --engine out, or start one process"
        )


def _require_alone(args: argparse.Namespace) -> None:
    from puma_hub.errors import ConfigurationError

    if len(args.bank) > 1 or args.shard is not None or args.mean or args.dtype != "float32":
        raise ConfigurationError(
            "--since is for one bank and its own mean, and rounds new prompts as those that are there; leave --shard, "
            "--mean and --dtype out"
        )
