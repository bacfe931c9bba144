"""``puma-hub data``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from puma_hub.cli import reading
from puma_hub.cli.output import Result, table
from puma_hub.extensions import DATASETS

EXAMPLE = "puma-hub data amazon-movies --folder downloads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "interactions", nargs="?", metavar="NAME_OR_PATH", help="a data set, file or folder (default: list the names)"
    )
    reading.add_reading(parser)


def run(args: argparse.Namespace) -> Result:
    if args.interactions is None:
        return _names()
    from puma_hub.data.load import read_interactions, split_interactions
    from puma_hub.data.statistics import TABLE_1, describe

    read = read_interactions(args.interactions, **reading.read_options(args))
    counts = dict(read.counts)
    found = describe(split_interactions(read, **reading.splitting(args)))
    paper = TABLE_1.get(args.interactions)
    report: dict[str, Any] = {"name": args.interactions, **found, "files": counts, "paper": paper}
    return Result(_table(found, counts, paper), report)


def _names() -> Result:
    """What there is, with the options of each."""
    options = {name: DATASETS.options(name) for name in DATASETS}
    text = table(
        ["name", "holds", "files", "--data-option"],
        [[name, one.about, ", ".join(one.files), ", ".join(options[name])] for name, one in DATASETS.items()],
    )
    return Result(text, {name: {"about": one.about, "options": options[name]} for name, one in DATASETS.items()})


def _table(found: Mapping[str, Any], counts: Mapping[str, int], paper: Mapping[str, Any] | None) -> str:
    rows = _flat(found)
    rows |= {name.replace("_", " "): f"{count:,}" for name, count in counts.items()}
    if paper is None:
        return table(["", "records"], [[name, value] for name, value in rows.items()])
    told = _flat(paper)
    return table(["", "found", "paper"], [[name, value, told.get(name, "")] for name, value in rows.items()])


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested figures by name, as they are shown."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        full = f"{before} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            flat |= _flat(value, full)
        else:
            flat[full] = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return flat
