"""``puma-hub info``."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from puma_hub.cli import common
from puma_hub.cli.output import Result

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.bank import Provenance

EXAMPLE = "puma-hub info source/bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="ID", help="folder or Hub id of a bank or an adapter")


def run(args: argparse.Namespace) -> Result:
    if common.is_bank_folder(args.path):
        from puma_hub.bank import PromptBank

        bank = PromptBank.load_from_disk(args.path)
        report = _bank(len(bank), bank.head is not None, bank.provenance)
    elif os.path.isdir(args.path):
        from puma_hub.adapter import PumaAdapter

        report = _adapter(PumaAdapter.from_pretrained(args.path))
    else:
        report = _on_the_hub(args.path)
    return Result(json.dumps(report, indent=2), report)


def _on_the_hub(name: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    from puma_hub.adapter import PumaAdapter
    from puma_hub.hub.bank_download import describe_bank
    from puma_hub.hub.errors import hub_errors
    from puma_hub.hub.find import read_listing
    from puma_hub.hub.naming import is_hub_id

    api = HfApi()
    with hub_errors(f"describe {name}"):
        is_bank = is_hub_id(name) and not api.repo_exists(name) and api.repo_exists(name, repo_type="dataset")
    if is_bank:
        bank, folder = describe_bank(name)  # no prompt is downloaded for this
        return _bank(bank.users, bank.rating_head, bank.provenance) | {"commit": folder.name, "license": bank.licence}
    report = _adapter(PumaAdapter.from_pretrained(name))
    with hub_errors(f"describe {name}"):
        published = read_listing(api.model_info(name))
    return report | {"published": published.to_dict() if published else None}


def _bank(users: int, rating_head: bool, provenance: Provenance) -> dict[str, Any]:
    facts = provenance.to_dict()
    facts["trained_rows"] = provenance.trained_rows.rows if provenance.trained_rows else None
    return {"kind": "bank", "users": users, "rating_head": rating_head, **facts}


def _adapter(adapter: PumaAdapter) -> dict[str, Any]:
    config: Any = adapter.config
    return {
        "kind": "adapter",
        "parameters": sum(parameter.numel() for parameter in adapter.parameters()),
        **{
            name: getattr(config, name) for name in ("architecture", "prompt_length", "template", "task", "rating_head")
        },
        "sources": [spec.to_dict() for spec in config.sources],
        "target": config.require_pair().to_dict(),
    }
