"""Interactions on the command line: which rows, how they are read, kept and held out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from puma_hub.cli import common
from puma_hub.extensions import FORMATS

if TYPE_CHECKING:
    import datasets

SAMPLED = "sampled"  # users who are drawn from the distribution of a bank's prompts


def _whole_number_or_sampled(text: str) -> int | str:
    return text if text == SAMPLED else common.whole_number(text)


def add_interactions(parser: argparse.ArgumentParser, *, required: bool = True, sampled: bool = False) -> None:
    """The interactions and how they are read; ``sampled`` lets ``--users`` be the word ``sampled``."""
    parser.add_argument(
        "--interactions",
        required=required,
        metavar="PATH",
        help=f"a file of {', '.join(FORMATS)}, a folder of splits, or a data set by name (puma-hub data lists them)",
    )
    add_reading(parser, sampled=sampled)


def add_reading(parser: argparse.ArgumentParser, *, sampled: bool = False) -> None:
    """How interactions are read and split; ``sampled`` lets ``--users`` be the word ``sampled``."""
    parser.add_argument(
        "--folder", metavar="DIR", help="of a data set's files (default: data/NAME in the cache of puma-hub fetch)"
    )
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        type=common.option,
        metavar="NAME=VALUE",
        help="an option of the data set or file format, such as min_user_reviews=5",
    )
    parser.add_argument("--format", choices=[*FORMATS], help="file format (default: by the file's ending)")
    drawn = "draw this many users at random"
    parser.add_argument(
        "--users",
        type=_whole_number_or_sampled if sampled else common.whole_number,
        help=f"{drawn}, or the word sampled: prompts from the bank's distribution" if sampled else drawn,
    )
    parser.add_argument("--rows-per-user", type=common.whole_number, help="keep the most recent rows of each user")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="hold out this share of each user's rows, the last (default: 0.2)",
    )
    parser.add_argument("--separator", help="of csv: , ; | :: or \\t (default: detected in the first line)")
    parser.add_argument("--encoding", help="of csv and json, such as cp1252 (default: utf-8)")
    parser.add_argument(
        "--columns", metavar="A,B,...", help="column names, for csv whose first line does not have them"
    )
    parser.add_argument("--item-statistics", action="store_true", help="add each item's mean label to its text")
    parser.add_argument(
        "--biases",
        action="store_true",
        help="compute user and item biases, which prompts then do not have to learn, and add them to predictions",
    )
    parser.add_argument(
        "--negatives",
        type=common.whole_number,
        metavar="N",
        help="for --task click: every row is a click, and N items that its user never took are none",
    )
    parser.add_argument(
        "--likes-from",
        type=float,
        metavar="RATING",
        help="for --task like or click: ratings from this one up are clicks, and lower ones are none",
    )
    parser.add_argument("--data-seed", type=int, default=42, help="seed of the drawn users (default: 42)")


def add_allow_training_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-training-rows", action="store_true", help="allow held-out rows that the bank was trained on"
    )


def load_rows(args: argparse.Namespace) -> datasets.DatasetDict:
    """The rows that ``args`` name; their labels must be the task's where ``args`` name an LLM or a task."""
    from puma_hub.data.load import read_interactions, split_interactions

    has_task = any(getattr(args, name, None) for name in ("model", "target", "task", "values"))
    return split_interactions(
        read_interactions(args.interactions, **read_options(args)),
        task=common.task_of(args) if has_task else None,
        **splitting(args),
    )


def splitting(args: argparse.Namespace) -> dict[str, Any]:
    """Which rows are kept and held out, as arguments of ``split_interactions``."""
    return {
        "users": args.users,
        "rows_per_user": args.rows_per_user,
        "item_statistics": args.item_statistics,
        "biases": args.biases,
        "negatives": args.negatives,
        "likes_from": args.likes_from,
        "held_out": args.held_out,
        "seed": args.data_seed,
    }


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """How the rows are read, as arguments of ``read_interactions``: those that were given.

    Raises:
        ConfigurationError: an option is given twice.
    """
    from puma_hub.errors import ConfigurationError

    options = {
        "folder": args.folder,
        "format": args.format,
        "separator": args.separator.replace("\\t", "\t") if args.separator else None,
        "encoding": args.encoding,
        "columns": args.columns.split(",") if args.columns else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in args.data_option:
        if name in given:
            raise ConfigurationError(f"the option {name} is given twice; leave one out")
        given[name] = value
    return given
