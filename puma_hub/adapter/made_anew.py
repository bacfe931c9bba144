"""Writing an adapter over an earlier one: which facts and which card stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.checkpoint import require_place
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts, Training
from puma_hub.adapter.publish import edited_card, write_card
from puma_hub.errors import ConfigurationError, PumaHubError, StorageError
from puma_hub.hub.card_parts import CARD_FILE
from puma_hub.hub.naming import is_hub_id
from puma_hub.identity import ModelSpec
from puma_hub.storage import replace_files

ALL_USERS = "all users of the bank"
"""What the card says about the selection where there was none."""


@dataclass(frozen=True)
class Earlier:
    """What an adapter's folder holds. ``edited``: its card was changed by hand."""

    adapter: PumaAdapter | None = None
    facts: AdapterFacts | None = None
    edited: bool = False

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Earlier:
        """Read the folder before a new adapter replaces it; it may be empty.

        Raises:
            StorageError: the folder holds another model.
            CheckpointError: the facts are malformed.
        """
        require_place(folder)
        facts, card = AdapterFacts.read(folder), Path(folder, CARD_FILE)
        try:
            adapter = PumaAdapter.from_pretrained(folder) if Path(folder, "config.json").is_file() else None
        except PumaHubError:  # it cannot be used, so there is nothing to compare with
            adapter = None
        try:
            edited = card.is_file() and (adapter is None or edited_card(adapter) is not None)
        except (ConfigurationError, StorageError):  # it is empty, or cannot be read as text: nothing that we made
            edited = True
        return cls(adapter, facts, edited)


def save_anew(
    adapter: PumaAdapter,
    folder: str | os.PathLike[str],
    facts: AdapterFacts,
    earlier: Earlier,
    say: Callable[[str], None],
) -> None:
    """Write adapter, facts and card over the earlier ones, all or nothing; ``say`` reports what was removed.

    A license, an intended use, Hub ids of the same LLMs and a card edited by hand stay. Evaluations, and what was
    stated about the training, stay only if the weights are the same.

    Raises:
        StorageError: the folder cannot be written.
    """
    same = earlier.adapter is not None and _same(earlier.adapter, adapter)
    before = earlier.facts or AdapterFacts()
    if earlier.adapter is not None:
        _keep_ids(adapter.config, earlier.adapter.config, same)
    kept = _kept(before, facts, same)
    # No figures beside other weights, and no card of others, which would count as edited by hand.
    with replace_files(folder, first=FACTS_FILE, last=CARD_FILE) as staged:
        adapter.save_pretrained(staged)
        if earlier.edited:
            kept.write(staged)
        else:
            write_card(adapter, staged, kept)
    gone = [f"{len(before.evaluations)} evaluation(s)"] if before.evaluations else []
    gone += ["what was stated of the training"] if before.training and _stated(before.training) else []
    if gone and not same:
        say(f"new weights in {folder}: {' and '.join(gone)} went with the old ones; puma-hub card adds new ones")
    if earlier.edited and not same:
        say(
            f"new weights in {folder}: its {CARD_FILE} was edited by hand and stays, but may not fit any more "
            f"(puma-hub card {folder} --overwrite makes it anew)"
        )


def _kept(before: AdapterFacts, now: AdapterFacts, same: bool) -> AdapterFacts:
    evaluations = {(one.dataset, one.split): one for one in (*(before.evaluations if same else ()), *now.evaluations)}
    training = now.training
    if same and before.training is not None:
        own = {} if training is None else {k: v for k, v in _values(training).items() if v is not None}
        training = replace(before.training, **own)
    return AdapterFacts(
        tuple(evaluations.values()),
        training,
        now.license or before.license,
        now.intended_use or before.intended_use,
    )


def _values(training: Training) -> dict[str, Any]:
    return {field.name: getattr(training, field.name) for field in fields(training)}


def _stated(training: Training) -> bool:
    """Whether it tells what training itself does not know."""
    return training.data is not None or training.selection not in (None, ALL_USERS)


def _same(one: PumaAdapter, other: PumaAdapter) -> bool:
    """Whether figures of one adapter hold for the other: the same weights, task and template.

    The LLMs may have other names, but must not be known to differ.
    """
    ours, theirs = one.state_dict(), other.state_dict()
    specs = [(*model.config.sources, model.config.require_pair()) for model in (one, other)]
    return (
        len(specs[0]) == len(specs[1])
        and not any(a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint for a, b in zip(*specs))
        and (one.config.scored_task, one.config.template) == (other.config.scored_task, other.config.template)
        and ours.keys() == theirs.keys()
        and all(torch.equal(tensor.cpu(), theirs[name].cpu()) for name, tensor in ours.items())
    )


def _keep_ids(config: Any, before: Any, same: bool) -> None:
    """Give LLMs the Hub ids they had in ``before``, if they are the same ones and have none now."""
    if len(config.sources) == len(before.sources):
        config.sources = [_with_id(ours, theirs, same) for ours, theirs in zip(config.sources, before.sources)]
    config.target = _with_id(config.target, before.target, same)


def _with_id(now: ModelSpec, before: ModelSpec, same: bool) -> ModelSpec:
    known = same or (now.fingerprint is not None and now.fingerprint == before.fingerprint)
    return replace(now, model_id=before.model_id) if known and _is_full(before) and not _is_full(now) else now


def _is_full(spec: ModelSpec) -> bool:
    return "/" in spec.model_id and is_hub_id(spec.model_id)
