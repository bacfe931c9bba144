"""An adapter and a bank, from folders or the Hub, as the app's content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.data import catalogue_of, check_interactions, load_catalogue
from puma_hub.data.held_out import refuse_trained_rows
from puma_hub.data.load import read_interactions
from puma_hub.demo.load_model import fetched_model
from puma_hub.demo.sources import MODELS
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.hub.markup import code, visible
from puma_hub.identity import ModelSpec
from puma_hub.pipelines import PersonalizedScoringPipeline
from puma_hub.pipelines.batch_pipeline import Deferred
from puma_hub.space.content import Content, Items
from puma_hub.space.report import Report, read_page


def published_content(
    adapter: str,
    bank: str,
    say: Callable[[str], None],
    *,
    items: str | None = None,
    held_out: str | None = None,
    source_model: str | None = None,
    target_model: str | None = None,
    report: str | None = None,
) -> Content:
    """The content of a bank that is migrated here. LLMs compute on the CPU.

    Args:
        adapter, bank: folders or repositories; the bank is that of the source LLM.
        say: takes a line of progress.
        items: file of a catalogue, see :func:`puma_hub.data.load_catalogue`; by default the items of ``held_out``.
        held_out: file of interactions, see :func:`puma_hub.data.load_interactions`, on none of which the bank was
            trained.
        source_model, target_model: folder, Hub id, or name of ``puma-hub fetch``; by default what the adapter records.
        report: page of ``puma-hub report``.

    Raises:
        ConfigurationError: the adapter has several sources, or no items are given.
        InteractionsError: held-out rows are split, have wrong columns, or are training rows.
        StorageError, CheckpointError, HubError, MismatchError: something cannot be loaded, or parts do not belong
            together.
    """
    loaded, prompts = PumaAdapter.from_pretrained(adapter), PromptBank.from_pretrained(bank)
    config: Any = loaded.config
    target = config.require_pair()
    if len(config.sources) != 1:
        raise ConfigurationError(
            f"the app shows one source LLM beside the target, and the adapter has {len(config.sources)}; choose an "
            "adapter with a single source"
        )
    # Files first: mistakes in them show before the LLMs are loaded.
    shown = _items(items, held_out, prompts)
    page = Report() if report is None else Report(page=read_page(Path(report)))
    return Content(
        _pipeline(source_model, config.sources[0], say, bank=prompts),
        _pipeline(target_model, target, say, bank=prompts, adapter=loaded),
        tuple(prompts.user_ids),
        shown,
        f"Bank {code(bank)}, adapter {code(adapter)}.",
        report=page,
    )


def _items(items: str | None, held_out: str | None, bank: PromptBank) -> Items:
    if held_out is None:
        if items is None:
            raise ConfigurationError("there are no items to choose from; give a catalogue or held-out rows")
        return Items.of(load_catalogue(items))
    rows = read_interactions(held_out).rows
    if not isinstance(rows, datasets.Dataset):
        raise InteractionsError(f"{held_out} holds {', '.join(rows)}; give the file of the held-out rows only")
    rows = check_interactions(rows, bank.provenance.task)
    refuse_trained_rows(rows, bank.provenance.trained_rows)
    return Items.of(catalogue_of(rows) if items is None else load_catalogue(items), rows)


def _pipeline(
    chosen: str | None, recorded: ModelSpec, say: Callable[[str], None], **parts: Any
) -> PersonalizedScoringPipeline:
    name, revision = (recorded.model_id, recorded.revision) if chosen is None else (chosen, None)
    if chosen is None:  # weights that puma-hub fetch makes bear the id of those they were made from
        name = next((fetched for fetched, source in MODELS.items() if source.revision == revision), name)
    if name in MODELS and not os.path.isdir(name):
        name, revision = fetched_model(name, say)[0], None
    say(f"loading {visible(name)}")
    return PersonalizedScoringPipeline(
        Deferred.from_pretrained(name, revision=revision, dtype="auto"), device="cpu", **parts
    )
