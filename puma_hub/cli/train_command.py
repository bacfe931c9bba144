"""``puma-hub train``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puma_hub.cli import common
from puma_hub.cli.output import Result, say
from puma_hub.extensions import WARM_STARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets

    from puma_hub.adapter import PumaAdapter
    from puma_hub.adapter.facts import Training
    from puma_hub.bank import PromptBank
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.training import AdapterTrainer

_TEACHER_SEED = 42  # each source's noise has a seed of its own

EXAMPLE = (
    "puma-hub train --target gemma-3-270m --bank source/bank --interactions ratings.csv --select users.txt "
    "--out migrator"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser, "--target")
    parser.add_argument(
        "--bank",
        required=True,
        action="append",
        metavar="ID",
        help="folder or Hub id of the source bank; repeat for aggregation",
    )
    common.add_interactions(parser)
    common.add_training(parser)
    parser.add_argument("--select", metavar="FILE", help="users to train on, one id a line (default: all)")
    parser.add_argument(
        "--recent-rows", type=common.whole_number, help="of each of them, the most recent to train on (default: all)"
    )
    parser.add_argument("--warm-start", metavar="ID", help="the source LLM: begin at the map between shared tokens")
    common.add_choice(parser, "--warm-start-by", WARM_STARTS, "ridge")
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="with --warm-start: a baseline that is not trained; labels do not count",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        metavar="ID",
        help="the source LLM: learn what it predicts for the rows in place of their labels; for several banks one for "
        "each, in their order, and the mean of their predictions is learnt",
    )
    parser.add_argument(
        "--architecture", choices=("seed", "paper", "linear"), help="default: seed; linear with --untrained"
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.adapter import PumaConfig
    from puma_hub.adapter.facts import AdapterFacts
    from puma_hub.adapter.made_anew import Earlier, save_anew
    from puma_hub.bank import PromptBank
    from puma_hub.bank.user_lists import read_users
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.data import most_recent, of_users
    from puma_hub.errors import ConfigurationError
    from puma_hub.training import AdapterTrainer, untrained_adapter

    folder = f"{args.out}/adapter"
    if args.untrained and (not args.warm_start or args.teacher):
        raise ConfigurationError("--untrained needs --warm-start, and learns from no --teacher")
    check_outputs(args, working=[folder, *common.training_folders(args)])
    earlier = Earlier.read(folder)
    users = read_users(args.select) if args.select else None
    banks = [PromptBank.from_pretrained(name) for name in args.bank]
    rows = common.load_rows(args)["train"]
    if users is not None:
        _require_known(users, banks, args.select)
        rows = of_users(rows, users)
    if args.recent_rows:
        rows = most_recent(rows, args.recent_rows)
    if args.teacher:
        rows = _taught(args, banks, rows)
    lm = common.load_lm(args.target, args, args.template or banks[0].provenance.template)
    config = PumaConfig(architecture=args.architecture or ("linear" if args.untrained else "seed"))
    init = _warm_start(args, config.architecture, banks, lm) if args.warm_start else None
    if args.untrained and init is not None:
        adapter = untrained_adapter(lm, banks[0], init, rows)
        facts = AdapterFacts(intended_use=f"A baseline without training: the warm start {args.warm_start_by}.")
        save_anew(adapter, folder, facts, earlier, say)
        report = {"method": "untrained", "warm_start": args.warm_start_by, "architecture": config.architecture}
        return Result(f"adapter {config.architecture} by {args.warm_start_by}, not trained, in {folder}", report)
    arguments = common.training_arguments(args)
    trainer = AdapterTrainer(lm, banks, rows, arguments, users=users, config=config, init=init)
    adapter = trainer.train(common.resume_from(args))
    if common.is_main_process():
        save_anew(adapter, folder, AdapterFacts(training=_training(trainer, args)), earlier, say)
    return Result(f"adapter {config.architecture}, trained on {len(trainer.users)} users, in {folder}", trainer.report)


def _taught(args: argparse.Namespace, banks: Sequence[PromptBank], rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with what the teachers say of them; one LLM is in memory at a time."""
    from puma_hub.errors import ConfigurationError
    from puma_hub.training import combine_teachers, with_source_predictions

    if len(args.teacher) != len(banks):
        raise ConfigurationError(
            f"{len(args.teacher)} --teacher for {len(banks)} --bank; give the LLM of each bank, in their order"
        )
    told = []
    for number, (name, bank) in enumerate(zip(args.teacher, banks)):
        source = common.load_lm(name, args, bank.provenance.template or args.template)
        told.append(with_source_predictions(source, bank, rows, seed=_TEACHER_SEED + number))
        del source
    return told[0] if len(told) == 1 else combine_teachers(told)


def _require_known(users: Sequence[str], banks: Sequence[PromptBank], file: str) -> None:
    from puma_hub.errors import SelectionError

    unknown = [number for number, user in enumerate(users, start=1) if not any(user in bank for bank in banks)]
    if unknown:
        raise SelectionError(
            f"{len(unknown)} of {len(users)} users in {file} are in no bank (the first is number {unknown[0]}); write "
            "ids of the bank's users alone, as puma-hub select does"
        )


def _training(trainer: AdapterTrainer, args: argparse.Namespace) -> Training:
    """What the adapter's card will tell of this run."""
    from puma_hub.adapter.facts import Training
    from puma_hub.adapter.made_anew import ALL_USERS

    report = trainer.report
    return Training(
        users=report["users"]["train"],
        of_users=report["users"]["bank"],
        selection=None if args.select else ALL_USERS,
        samples=report["samples_until_best_epoch"],
        seconds=report["seconds"]["until_best_epoch"],
        seed=args.seed,
    )


def _warm_start(
    args: argparse.Namespace, architecture: str, banks: Sequence[PromptBank], target: PersonalizedLM
) -> PumaAdapter:
    from puma_hub.adapter import PumaConfig
    from puma_hub.adapter.warm_start import warm_start

    source = common.load_lm(args.warm_start, args, target.template.text)
    source.spec.require_same(banks[0].model, "the bank given with --warm-start")
    config = PumaConfig(
        sources=[bank.model for bank in banks],
        target=target.spec,
        prompt_length=banks[0].shape[0],
        architecture=architecture,
        task=target.task,
        template=target.template,
    )
    return warm_start(
        config,
        source.input_embeddings(),
        source.tokenizer,
        target.input_embeddings(),
        target.tokenizer,
        method=args.warm_start_by,
        **dict(args.option),
    )
