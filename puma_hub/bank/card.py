"""Dataset cards of banks: the facts come from the bank, the prose from a template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from puma_hub.bank import PromptBank
from puma_hub.bank.description import SHARDS
from puma_hub.bank.lineage import PARENTS
from puma_hub.bank.provenance import FORMAT_VERSION
from puma_hub.hub.card_parts import spec_data, spec_row
from puma_hub.hub.markup import block, code, literal, visible
from puma_hub.hub.naming import bank_tags, is_folder, public_id
from puma_hub.hub.templates import filled
from puma_hub.tasks.owners import USERS

_TEMPLATE = "bank_card.md"
_MADE = {
    "given": "given from elsewhere",
    "trained": "trained on the LLM named here",
    "migrated": "migrated by an adapter from the banks before it",
}


def bank_card(bank: PromptBank, location: str, license: str | None = None, public: bool = False) -> DatasetCard:
    """The card of a bank. It names no user. The same input gives the same bytes.

    Args:
        location: the repository in the card's code examples.
        license: an identifier of the Hub, if the publisher states one.
        public: whether anyone can read the repository.
    """
    facts = bank.provenance
    return filled(
        DatasetCard,
        _TEMPLATE,
        bank_card_data(bank, license),
        model=spec_row(facts.model),
        public=public,
        users=f"{len(bank):,}",
        owners=facts.owners,
        prompt_length=facts.prompt_length,
        columns=[code(name) for name in bank.dataset.column_names if name not in ("user_id", "prompt")],
        rating_head=bank.head is not None,
        task=code(facts.task.described(facts.details.get("answer_texts"))) if facts.task else "not recorded",
        template=block(facts.template or "not recorded"),
        steps=[_step(step) for step in facts.lineage],
        location=literal(location),
        shell_location=shlex.quote(visible(location)),
        license=(
            f"Stated by the publisher for this bank: {code(license)}."
            if license
            else "The publisher has stated no license for this bank; ask before you use it."
        ),
    )


def bank_card_data(bank: PromptBank, license: str | None) -> DatasetCardData:
    """The card's metadata: the fields that ``datasets`` and the Hub read, and a block ``puma_hub``."""
    facts = bank.provenance
    block = {
        "model": spec_data(facts.model),
        "prompt_length": facts.prompt_length,
        "task": facts.task.name if facts.task else None,
        "made_by": visible(facts.made_by),
        "owners": None if facts.owners == USERS.name else facts.owners,
        "users": len(bank),
        "format_version": FORMAT_VERSION,
    }
    return DatasetCardData(
        license=license,
        tags=bank_tags(facts.model),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": SHARDS}]}],
        puma_hub={key: value for key, value in block.items() if value is not None},
    )


def _step(step: Mapping[str, Any]) -> dict[str, str]:
    model, details = step.get("model"), step.get("details")
    name = model.get("model_id") if isinstance(model, Mapping) else None
    made = str(step.get("made_by", ""))
    return {
        "made": _MADE.get(made, code(made)),
        "origin": ", ".join(str(parent + 1) for parent in step.get(PARENTS, ())),
        "model": code(public_id(str(name))) if name else "not recorded",
        "details": code(json.dumps(_without_paths(details), sort_keys=True, default=str)) if details else "",
    }


def _without_paths(value: Any) -> Any:
    """The details of a step, with folders as model names shortened to their last part."""
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(item) for item in value]
    return public_id(value) if isinstance(value, str) and is_folder(value) else value
