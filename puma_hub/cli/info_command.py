"""``puma-hub info``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_hub.cli.output import Result, say

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.bank import Provenance

EXAMPLE = "puma-hub info source/bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="ID",
        help="folder or Hub id of a bank or an adapter; datasets/ID for a bank with the same id as an adapter; or the "
        "address of a bank in a bucket",
    )


def run(args: argparse.Namespace) -> Result:
    report = _local(args.path) if os.path.exists(args.path) else _on_the_hub(args.path)
    return Result(json.dumps(report, indent=2), report)


def _local(path: str) -> dict[str, Any]:
    from puma_hub.storage.contents import ADAPTER, require_ours

    if require_ours(path) == ADAPTER:
        from puma_hub.adapter import PumaAdapter

        return _adapter(PumaAdapter.from_pretrained(path))
    from puma_hub.bank import PromptBank

    bank = PromptBank.from_pretrained(path)
    return _bank(len(bank), bank.head is not None, bank.provenance)


def _on_the_hub(given: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    from puma_hub.bank.bucket import describe_bucket
    from puma_hub.bank.description import DESCRIPTION_FILE
    from puma_hub.bank.download import describe_bank
    from puma_hub.errors import HubNotFoundError, StorageError
    from puma_hub.hub.buckets import is_bucket
    from puma_hub.hub.failures import hub_errors
    from puma_hub.hub.naming import is_hub_id

    if is_bucket(given):
        described = describe_bucket(given)
        return _bank(described.users, described.rating_head, described.provenance) | {"license": described.license}
    name = given.removeprefix("datasets/") if given.count("/") == 2 else given
    if not is_hub_id(name):
        raise StorageError(
            f"cannot describe {given}: it is not a folder, and not a repository's name either; check the name"
        )
    api = HfApi()
    with hub_errors(f"describe {name}"):
        is_model = name == given and api.repo_exists(name)
        is_dataset = api.repo_exists(name, repo_type="dataset")
        is_bank = is_dataset and api.file_exists(name, DESCRIPTION_FILE, repo_type="dataset")
        is_adapter = is_model and _is_adapter(name)
    if is_bank and not is_adapter:
        bank, folder = describe_bank(name)  # no prompt is downloaded for this
        return _bank(bank.users, bank.rating_head, bank.provenance) | {"commit": folder.name, "license": bank.license}
    if is_dataset and not is_bank and not is_model:
        raise HubNotFoundError(f"{name} is a data set without {DESCRIPTION_FILE}, not a bank; check the name")
    if is_bank:
        say(f"there is also a bank of this name: puma-hub info datasets/{name}")
    return _published(name)


def _is_adapter(repo_id: str) -> bool:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from puma_hub.adapter.download import require_adapter
    from puma_hub.errors import PumaHubError

    try:
        require_adapter(Path(hf_hub_download(repo_id, "config.json")), repo_id)
    except (EntryNotFoundError, PumaHubError):
        return False
    return True


def _published(repo_id: str) -> dict[str, Any]:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.hub.failures import hub_errors
    from puma_hub.registry.listing import described
    from puma_hub.registry.published import read_listing

    report = _adapter(PumaAdapter.from_pretrained(repo_id))
    with hub_errors(f"describe {repo_id}"):
        published = read_listing(described(repo_id))
    return report | {"published": published.to_dict() if published else None}


def _bank(users: int, rating_head: bool, provenance: Provenance) -> dict[str, Any]:
    from puma_hub.bank.lineage import lineage_lines

    facts = provenance.to_dict()
    facts["trained_rows"] = provenance.trained_rows.rows if provenance.trained_rows else None
    lines = lineage_lines(provenance.lineage)
    return {"kind": "bank", "users": users, "rating_head": rating_head, "lineage": lines, **facts}


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
