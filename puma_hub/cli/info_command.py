"""``puma-hub info``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from puma_hub.cli.output import Result

EXAMPLE = "puma-hub info source/bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder of a bank, or folder or Hub id of an adapter")


def run(args: argparse.Namespace) -> Result:
    from puma_hub.bank.storage import PROVENANCE_FILE

    if (Path(args.path) / PROVENANCE_FILE).is_file():
        from puma_hub.bank import PromptBank

        bank = PromptBank.load_from_disk(args.path)
        report = {"kind": "bank", "users": len(bank), "rating_head": bank.head is not None, **bank.provenance.to_dict()}
    else:
        from puma_hub.adapter import PumaAdapter

        adapter = PumaAdapter.from_pretrained(args.path)
        config = adapter.config
        report = {
            "kind": "adapter",
            "parameters": sum(parameter.numel() for parameter in adapter.parameters()),
            **{
                name: getattr(config, name)
                for name in ("architecture", "prompt_length", "template", "task", "rating_head")
            },
            "sources": [spec.to_dict() for spec in config.sources],
            "target": config.require_pair().to_dict(),
        }
    return Result(json.dumps(report, indent=2), report)
