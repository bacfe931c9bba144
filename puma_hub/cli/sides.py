"""The two sides of a comparison on the command line: source and target LLM, each with its bank."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puma_hub.cli import common

if TYPE_CHECKING:
    from puma_hub.bank import PromptBank
    from puma_hub.scorer import PersonalizedLM


def add_sides(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    parser.add_argument(
        "--bank", required=True, metavar="ID", help="folder or Hub id of the migrated bank, for --model"
    )
    parser.add_argument("--source", required=True, metavar="ID", help="the source LLM")
    parser.add_argument(
        "--source-bank", required=True, metavar="ID", help="folder or Hub id of the bank before the migration"
    )


def load_banks(args: argparse.Namespace) -> tuple[PromptBank, PromptBank]:
    """The bank before the migration, and the migrated one."""
    from puma_hub.bank import PromptBank

    return PromptBank.from_pretrained(args.source_bank), PromptBank.from_pretrained(args.bank)


def load_lms(args: argparse.Namespace, before: PromptBank, after: PromptBank) -> tuple[PersonalizedLM, PersonalizedLM]:
    """The source LLM and the target LLM of the two banks."""
    source_lm = common.load_lm(args.source, args, before.provenance.template or args.template)
    return source_lm, common.load_lm(args.model, args, args.template or after.provenance.template)
