"""``puma-hub train``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from puma_hub.cli import common
from puma_hub.cli.output import Result, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets

    from puma_hub.adapter import PumaAdapter
    from puma_hub.adapter.facts import Training
    from puma_hub.bank import PromptBank
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.tasks.owners import Owners
    from puma_hub.training import AdapterTrainer

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
        help="folder or Hub id of the source bank, or the file of its distribution; repeat for aggregation",
    )
    common.add_interactions(parser, required=False, sampled=True)
    parser.add_argument(
        "--catalogue",
        metavar="FILE",
        help="items with the column item_text; with --teacher, rows are drawn of users and items, without labels",
    )
    parser.add_argument(
        "--draw", type=common.whole_number, default=1024, metavar="ROWS", help="of a catalogue (default: 1024)"
    )
    common.add_training(parser)
    parser.add_argument("--select", metavar="FILE", help="users to train on, one id a line (default: all)")
    parser.add_argument(
        "--recent-rows", type=common.whole_number, help="of each of them, the most recent to train on (default: all)"
    )
    parser.add_argument("--warm-start", metavar="ID", help="the source LLM: begin at the map between shared tokens")
    parser.add_argument(
        "--teacher", metavar="ID", help="the source LLM: learn what it predicts for the rows in place of their labels"
    )
    parser.add_argument(
        "--given",
        metavar="ID",
        help="for a bank of items: the users' bank on the target LLM; the other way round for users beside items",
    )
    parser.add_argument("--source-given", metavar="ID", help="likewise on the source LLM, for --teacher")
    parser.add_argument("--architecture", choices=("seed", "paper", "linear"), default="seed", help="default: seed")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.adapter import PumaConfig
    from puma_hub.adapter.facts import AdapterFacts
    from puma_hub.adapter.made_anew import Earlier, save_anew
    from puma_hub.bank.user_lists import read_users
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.errors import ConfigurationError
    from puma_hub.training import AdapterTrainer, with_source_predictions

    folder = f"{args.out}/adapter"
    check_outputs(args, working=[folder, *common.training_folders(args)])
    earlier = Earlier.read(folder)
    if bool(args.interactions) == bool(args.catalogue):
        raise ConfigurationError("give --interactions, to learn from their rows, or --catalogue, to learn without them")
    if args.catalogue and not args.teacher:
        raise ConfigurationError("--catalogue has no labels; give the source LLM as --teacher")
    if len(args.bank) > 1 and args.teacher:
        raise ConfigurationError(f"--teacher goes with one source bank, got {len(args.bank)}; leave it out")
    users = read_users(args.select) if args.select else None
    banks = [_load_bank(name, args) for name in args.bank]
    if users is not None:
        _require_known(users, banks, args.select)
    given, source_given = _other_bank(args.given), _other_bank(args.source_given)
    rows = _drawn(args, banks[0], source_given, users) if args.catalogue else _given(args, users, banks[0].owners)
    if args.teacher:
        source = common.load_lm(args.teacher, args, banks[0].provenance.template or args.template)
        rows = with_source_predictions(source, banks[0], rows, seed=args.seed, given=source_given)
        del source
    lm = common.load_lm(args.target, args, args.template or banks[0].provenance.template)
    config = PumaConfig(architecture=args.architecture)
    init = _warm_start(args, banks, lm) if args.warm_start else None
    trainer = AdapterTrainer(
        lm,
        banks,
        rows,
        common.training_arguments(args),
        users=users,
        config=config,
        init=init,
        given=given,
    )
    adapter = trainer.train(common.resume_from(args))
    if common.is_main_process():
        save_anew(adapter, folder, AdapterFacts(training=_training(trainer, args)), earlier, say)
    whom = f"{len(trainer.users)} {trainer.owners.name}"
    return Result(f"adapter {args.architecture}, trained on {whom}, in {folder}", trainer.report)


def _load_bank(name: str, args: argparse.Namespace) -> PromptBank:
    """A bank, or prompts that are drawn from the distribution of one."""
    from puma_hub.bank import PromptBank
    from puma_hub.bank.distribution import PromptDistribution

    if os.path.isfile(name):
        return PromptDistribution.load(name).sample(args.draw, seed=args.seed)
    bank = PromptBank.from_pretrained(name)
    return PromptDistribution.of(bank).sample(args.draw, seed=args.seed) if args.users == common.SAMPLED else bank


def _other_bank(name: str | None) -> PromptBank | None:
    from puma_hub.bank import PromptBank

    return PromptBank.from_pretrained(name) if name is not None else None


def _drawn(
    args: argparse.Namespace, bank: PromptBank, given: PromptBank | None, users: list[str] | None
) -> datasets.Dataset:
    """Rows of users and items of the catalogue, as many as ``--draw`` says; users of ``given`` for a bank of items."""
    from puma_hub.data.catalogue import load_catalogue
    from puma_hub.tasks import PromptTemplate
    from puma_hub.tasks.owners import ITEMS
    from puma_hub.training import draw_rows

    template = PromptTemplate.of(args.template or bank.provenance.template or common.task_of(args).template)
    items = load_catalogue(args.catalogue, format=args.format)
    if bank.owners is ITEMS and given is not None:
        bank, users = given, None
    return draw_rows(bank, items, args.draw, users=users, history="<history>" in template.text, seed=args.seed)


def _given(args: argparse.Namespace, users: list[str] | None, owners: Owners) -> datasets.Dataset:
    """The training rows of the interactions, of the chosen users or items."""
    from puma_hub.data import most_recent, of_users
    from puma_hub.errors import ConfigurationError

    if args.users == common.SAMPLED:
        raise ConfigurationError(
            "--users sampled has no rows among the interactions; give a --catalogue in their place"
        )
    rows = common.load_rows(args)["train"]
    rows = rows if users is None else of_users(rows, users, owners.column)
    return most_recent(rows, args.recent_rows) if args.recent_rows else rows


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


def _warm_start(args: argparse.Namespace, banks: Sequence[PromptBank], target: PersonalizedLM) -> PumaAdapter:
    from puma_hub.adapter import PumaConfig
    from puma_hub.adapter.warm_start import warm_start

    source = common.load_lm(args.warm_start, args, target.template.text)
    source.spec.require_same(banks[0].model, "the bank given with --warm-start")
    config = PumaConfig(
        sources=[bank.model for bank in banks],
        target=target.spec,
        prompt_length=banks[0].shape[0],
        architecture=args.architecture,
        task=target.task,
        template=target.template,
    )
    return warm_start(config, source.input_embeddings(), source.tokenizer, target.input_embeddings(), target.tokenizer)
