"""``puma-hub train``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from puma_hub.cli import common, processes, reading
from puma_hub.cli.output import Result, say
from puma_hub.extensions import WARM_STARTS

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
    reading.add_interactions(parser, required=False, sampled=True)
    parser.add_argument(
        "--catalogue", metavar="FILE", help="items with the column item_text, in place of those of --interactions"
    )
    parser.add_argument(
        "--rows",
        choices=("drawn", "own"),
        help="learn from users and items paired at random, or from the interactions' own rows (default: drawn with "
        "--teacher, which needs no labels)",
    )
    parser.add_argument(
        "--draw", type=common.whole_number, default=2048, metavar="ROWS", help="rows to draw (default: 2048)"
    )
    parser.add_argument("--items", type=common.whole_number, default=240, help="items to draw them of (default: 240)")
    common.add_training(parser)
    parser.add_argument(
        "--select", metavar="FILE", help="list of users to train on, one id on each line (default: all)"
    )
    parser.add_argument(
        "--recent-rows", type=common.whole_number, help="train on this many recent rows of each user (default: all)"
    )
    parser.add_argument(
        "--warm-start", metavar="ID", help="the source LLM: start from a map fitted to the tokens of both vocabularies"
    )
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
        help="the source LLM: learn from its predictions in place of labels; for several banks one for each, in their "
        "order: the adapter learns from the mean of their predictions",
    )
    parser.add_argument(
        "--architecture", choices=("seed", "paper", "linear"), help="default: seed; linear with --untrained"
    )
    parser.add_argument(
        "--given",
        metavar="ID",
        help="for a bank of items: the users' bank on the target LLM; for users beside items: the items' bank",
    )
    parser.add_argument(
        "--source-given",
        action="append",
        metavar="ID",
        help="with --given: the bank on the source LLM, for --teacher; for several teachers one for each",
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.adapter import PumaConfig
    from puma_hub.adapter.facts import AdapterFacts
    from puma_hub.adapter.made_anew import Earlier, save_anew
    from puma_hub.bank import PromptBank
    from puma_hub.bank.user_lists import read_users
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.training import AdapterTrainer, untrained_adapter

    _require_fitting(args)
    folder = f"{args.out}/adapter"
    check_outputs(args, working=[folder, *common.training_folders(args)])
    earlier = Earlier.read(folder)
    users = read_users(args.select) if args.select else None
    banks = [_load_bank(name, args) for name in args.bank]
    if users is not None:
        _require_known(users, banks, args.select)
    given = PromptBank.from_pretrained(args.given) if args.given else None
    source_given = [PromptBank.from_pretrained(name) for name in args.source_given or []]
    rows = _drawn(args, banks, source_given, users) if args.rows == "drawn" else _own(args, users, banks[0].owners)
    if args.teacher:
        rows = _with_predictions(args, banks, source_given, rows)
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
    trainer = AdapterTrainer(lm, banks, rows, arguments, users=users, config=config, init=init, given=given)
    adapter = trainer.train(common.resume_from(args))
    if processes.is_main():
        save_anew(adapter, folder, AdapterFacts(training=_training(trainer, args)), earlier, say)
    whom = f"{len(trainer.users)} {trainer.owners.name}"
    return Result(f"adapter {config.architecture}, trained on {whom}, in {folder}", trainer.report)


def _require_fitting(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together.

    Raises:
        ConfigurationError: some do not.
    """
    from puma_hub.errors import ConfigurationError

    if args.untrained and (not args.warm_start or args.teacher):
        raise ConfigurationError("--untrained needs --warm-start, and learns from no --teacher")
    if bool(args.interactions) == bool(args.catalogue):
        raise ConfigurationError("give --interactions, or a --catalogue of items in their place")
    args.rows = args.rows or ("drawn" if args.teacher or args.catalogue else "own")
    if args.rows == "drawn" and not args.teacher:
        raise ConfigurationError("rows that are drawn have no labels; give the source LLM as --teacher")
    if args.rows == "own" and (args.catalogue or args.users == reading.SAMPLED):
        raise ConfigurationError("--rows own are those of --interactions and its users; leave --rows out")
    if args.rows == "drawn" and args.recent_rows:
        raise ConfigurationError("--recent-rows goes with --rows own")
    if len(args.bank) > 1 and (args.users == reading.SAMPLED or any(map(os.path.isfile, args.bank))):
        raise ConfigurationError(
            f"users who are drawn are in one bank alone, got {len(args.bank)} of --bank; give banks of the same users"
        )
    if args.teacher and len(args.teacher) != len(args.bank):
        raise ConfigurationError(
            f"{len(args.teacher)} --teacher for {len(args.bank)} --bank; give the LLM of each bank, in their order"
        )
    if args.source_given and len(args.source_given) != len(args.teacher or []):
        raise ConfigurationError(
            f"{len(args.source_given)} --source-given for {len(args.teacher or [])} --teacher; give one for each, in "
            "their order"
        )


def _with_predictions(
    args: argparse.Namespace, banks: Sequence[PromptBank], given: Sequence[PromptBank | None], rows: datasets.Dataset
) -> datasets.Dataset:
    """The rows with the teachers' predictions. One LLM is in memory at a time."""
    from puma_hub.training import combine_teachers, with_source_predictions

    others = given or [None] * len(banks)
    parts = []
    for number, (name, bank, other) in enumerate(zip(args.teacher, banks, others)):
        source = common.load_lm(name, args, bank.provenance.template or args.template)
        parts.append(with_source_predictions(source, bank, rows, seed=args.seed + number, given=other))
        del source
    return parts[0] if len(parts) == 1 else combine_teachers(parts)


def _load_bank(name: str, args: argparse.Namespace) -> PromptBank:
    """A bank, or prompts that are drawn from the distribution of one."""
    from puma_hub.bank import PromptBank
    from puma_hub.bank.distribution import PromptDistribution

    if os.path.isfile(name):
        return PromptDistribution.load(name).sample(args.draw, seed=args.seed)
    bank = PromptBank.from_pretrained(name)
    return PromptDistribution.of(bank).sample(args.draw, seed=args.seed) if args.users == reading.SAMPLED else bank


def _drawn(
    args: argparse.Namespace, banks: Sequence[PromptBank], given: Sequence[PromptBank], users: list[str] | None
) -> datasets.Dataset:
    """Rows of users of the banks and items, as many as ``--draw`` says; for banks of items, of the ``given`` users."""
    from puma_hub.bank.join import join_users
    from puma_hub.data import catalogue_of, load_catalogue, of_users
    from puma_hub.tasks import PromptTemplate
    from puma_hub.tasks.owners import ITEMS
    from puma_hub.training import draw_rows

    template = PromptTemplate.of(args.template or banks[0].provenance.template or common.task_of(args).template)
    if args.catalogue:
        items = load_catalogue(args.catalogue, format=args.format)
    else:
        of_all = argparse.Namespace(**{**vars(args), "users": None if args.users == reading.SAMPLED else args.users})
        items = catalogue_of(reading.load_rows(of_all)["train"])
    if banks[0].owners is ITEMS:
        items = of_users(items, users if users is not None else join_users(banks).names, ITEMS.column)
        banks, users = given or banks, None  # without given users the teacher refuses
    known = users if users is not None or len(banks) == 1 else join_users(banks).names
    history = "<history>" in template.text
    return draw_rows(banks[0], items, args.draw, items=args.items, users=known, history=history, seed=args.seed)


def _own(args: argparse.Namespace, users: list[str] | None, owners: Owners) -> datasets.Dataset:
    """The training rows of the interactions, of the chosen users or items."""
    from puma_hub.data import most_recent, of_users

    rows = reading.load_rows(args)["train"]
    rows = rows if users is None else of_users(rows, users, owners.column)
    return most_recent(rows, args.recent_rows) if args.recent_rows else rows


def _require_known(users: Sequence[str], banks: Sequence[PromptBank], file: str) -> None:
    from puma_hub.errors import SelectionError

    unknown = [number for number, user in enumerate(users, start=1) if not any(user in bank for bank in banks)]
    if unknown:
        raise SelectionError(
            f"{len(unknown)} of {len(users)} users in {file} are in no bank (the first is number {unknown[0]}); list "
            "only users of the bank, as puma-hub select does"
        )


def _training(trainer: AdapterTrainer, args: argparse.Namespace) -> Training:
    """The facts about this run for the adapter's card."""
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
