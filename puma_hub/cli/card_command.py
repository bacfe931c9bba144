"""``puma-hub card``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from puma_hub.cli.output import Result

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.adapter.facts import AdapterFacts, Evaluation

EXAMPLE = "puma-hub card migrator/adapter --evaluation evaluation.json --dataset movielens-100k --license apache-2.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="folder of an adapter; its README.md is made or refreshed")
    report = "report of puma-hub evaluate --json"
    parser.add_argument("--evaluation", metavar="FILE", help=f"{report}, of the migrated bank")
    parser.add_argument("--source-evaluation", metavar="FILE", help=f"{report}, of the source bank on the same rows")
    parser.add_argument("--retrained-evaluation", metavar="FILE", help=f"{report}, of retrained prompts")
    parser.add_argument("--comparison", metavar="FILE", help="report of puma-hub compare --json")
    parser.add_argument("--dataset", metavar="NAME", help="the data set of these reports")
    parser.add_argument(
        "--split",
        default="validation",
        metavar="NAME",
        help="the rows of the data set that were used (default: validation)",
    )
    parser.add_argument("--trained-on", metavar="NAME", help="the training data")
    parser.add_argument("--selection", metavar="TEXT", help="how the training users were chosen")
    parser.add_argument("--license", metavar="ID", help="license of the adapter, which inherits both LLMs' obligations")
    parser.add_argument("--intended-use", metavar="TEXT", help="text of the card's section on intended use")
    parser.add_argument(
        "--source", action="append", metavar="ID", help="the source's Hub id, if it was trained from a folder"
    )
    parser.add_argument("--target", metavar="ID", help="the target's Hub id, in the same case")
    parser.add_argument("--overwrite", action="store_true", help="also replace a README.md that was edited by hand")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.adapter.facts import FACTS_FILE
    from puma_hub.adapter.publish import edited_card, local_facts, write_card
    from puma_hub.errors import ConfigurationError
    from puma_hub.hub.card_parts import CARD_FILE
    from puma_hub.storage import replace_files
    from puma_hub.storage.contents import ADAPTER, require_ours

    if require_ours(args.path) != ADAPTER:
        raise ConfigurationError(f"{args.path} holds a bank, whose card puma-hub push makes; give an adapter's folder")
    adapter: PumaAdapter = PumaAdapter.from_pretrained(args.path)
    if not args.overwrite and edited_card(adapter) is not None:
        raise ConfigurationError(f"{args.path}/README.md was edited by hand; --overwrite replaces it")
    facts = _facts(args, local_facts(adapter))
    renamed = _rename(args, adapter)
    with replace_files(args.path, first=FACTS_FILE, last=CARD_FILE) as staged:
        if renamed:
            adapter.config.save_pretrained(staged)
        write_card(adapter, staged, facts)
    return Result(f"card in {args.path}/README.md", facts.to_dict())


def _facts(args: argparse.Namespace, before: AdapterFacts | None) -> AdapterFacts:
    from dataclasses import replace

    from puma_hub.adapter.facts import AdapterFacts
    from puma_hub.errors import ConfigurationError

    facts = before or AdapterFacts()
    new = {(evaluation.dataset, evaluation.split): evaluation for evaluation in _evaluations(args)}
    kept = {(evaluation.dataset, evaluation.split): evaluation for evaluation in facts.evaluations}
    training = {"data": args.trained_on, "selection": args.selection}
    known = {key: value for key, value in training.items() if value}
    if known and facts.training is None:
        raise ConfigurationError(f"{args.path} holds no training facts; puma-hub train leaves them beside an adapter")
    return replace(
        facts,
        evaluations=tuple((kept | new).values()),
        training=replace(facts.training, **known) if facts.training else None,
        license=args.license or facts.license,
        intended_use=args.intended_use or facts.intended_use,
    )


def _evaluations(args: argparse.Namespace) -> list[Evaluation]:
    from puma_hub.adapter.facts import Evaluation
    from puma_hub.errors import ConfigurationError
    from puma_hub.storage import read_json

    files = {"migrated": args.evaluation, "source": args.source_evaluation, "retrained": args.retrained_evaluation}
    reports: dict[str, dict[str, Any]] = {name: read_json(file) for name, file in files.items() if file}
    if (reports or args.comparison) and not args.dataset:
        raise ConfigurationError("name the data set of the reports (--dataset)")
    found = [Evaluation.from_reports(args.dataset, args.split, reports)] if reports else []
    if args.comparison:
        split = f"{args.split}, own, mean and shuffled prompts"
        found.append(Evaluation.from_comparison(args.dataset, split, read_json(args.comparison)))
    return found


def _rename(args: argparse.Namespace, adapter: PumaAdapter) -> bool:
    """Change the models' ids as given. Return whether any was given."""
    from dataclasses import replace

    from puma_hub.errors import ConfigurationError

    config: Any = adapter.config
    if args.source:
        if len(args.source) != len(config.sources):
            raise ConfigurationError(
                f"the adapter has {len(config.sources)} source(s), --source is given {len(args.source)} times"
            )
        config.sources = [replace(spec, model_id=name) for spec, name in zip(config.sources, args.source)]
    if args.target:
        config.target = replace(config.require_pair(), model_id=args.target)
    return bool(args.source or args.target)
