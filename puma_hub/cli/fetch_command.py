"""``puma-hub fetch``."""

from __future__ import annotations

import argparse

from puma_hub.cli.output import Result, say

EXAMPLE = "puma-hub fetch smollm2-135m gemma-3-270m movielens-100k"
NAMES = ("smollm2-135m", "gemma-3-270m", "movielens-100k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch (default: all): {', '.join(NAMES)}")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.demo.fetch import fetch

    folders = {name: str(fetch(name, say)) for name in args.names or NAMES}
    return Result("\n".join(f"{name}: {folder}" for name, folder in folders.items()), folders)
