"""``puma-hub reproduce``."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace

from puma_hub.cli.output import Result, say
from puma_hub.extensions import EXPERIMENTS

EXAMPLE = "puma-hub reproduce table2 --preset cpu --seeds 42 43 44 --out reproduced"
ALL = "all"
_PRESETS = {"cpu": "MovieLens-100K and two small models", "paper": "the paper's models and data, for GPUs and the Hub"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description or ''} Parts that are done are kept in DIR/parts and shared by all experiments, so an "
        "interrupted run goes on where it was."
    ).strip()
    known = "; ".join(f"{name}: {one.about}" for name, one in EXPERIMENTS.items())
    parser.add_argument(
        "experiments",
        nargs="+",
        choices=[*EXPERIMENTS, ALL],
        metavar="EXPERIMENT",
        help=f"{known}; {ALL}: all of them. Several run in one go, in which each LLM reads the texts of a seed once",
    )
    chosen = parser.add_mutually_exclusive_group()
    told = "; ".join(f"{name}: {about}" for name, about in _PRESETS.items())
    chosen.add_argument("--preset", choices=[*_PRESETS], default="cpu", help=f"{told} (default: cpu)")
    chosen.add_argument("--config", metavar="FILE", help="YAML: models, data, seeds, sizes; in place of a preset")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="in place of the configuration's")
    parser.add_argument(
        "--out", default="reproduced", metavar="DIR", help="where results and parts go (default: reproduced)"
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.reproduce.config import load_config
    from puma_hub.reproduce.run import output_files, run_experiments
    from puma_hub.reproduce.store import PARTS

    names = [*EXPERIMENTS] if ALL in args.experiments else [*dict.fromkeys(args.experiments)]
    files = [str(path) for name in names for path in output_files(name, args.out).values()]
    check_outputs(args, working=[f"{args.out}/{PARTS}"], files=files)
    config = load_config(args.config or args.preset)
    if args.seeds:
        config = replace(config, seeds=args.seeds)
    commands = {name: _command(args, name, config.seeds) for name in names}
    found = run_experiments(commands, config, args.out, say)
    say(f"{', '.join(files)}")
    report = {name: one for name, (_, one) in found.items()}
    return Result("\n".join(text for text, _ in found.values()), report if len(names) > 1 else report[names[0]])


def _command(args: argparse.Namespace, experiment: str, seeds: list[int]) -> str:
    """What to type for the same again."""
    source = ["--config", args.config] if args.config else ["--preset", args.preset]
    words = ["puma-hub", "reproduce", experiment, *source, "--seeds", *map(str, seeds), "--out", args.out]
    return shlex.join(words)
