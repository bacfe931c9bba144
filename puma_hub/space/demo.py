"""The demo's output as the app's content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.data import catalogue_of
from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.fetch import fetch
from puma_hub.demo.load_model import load_model
from puma_hub.demo.picture import PICTURE
from puma_hub.demo.quiet import quiet
from puma_hub.demo.settings import DATA, SOURCE_MODEL, TARGET_MODEL, DemoSettings
from puma_hub.demo.source_side import chosen_users
from puma_hub.demo.table import demo_table
from puma_hub.demo.unseen import PAGE
from puma_hub.pipelines import PersonalizedScoringPipeline
from puma_hub.space.content import Content, Items
from puma_hub.space.report import Report, read_page

_WHOSE = (
    "Users of MovieLens-100K, a public data set without names (Harper and Konstan, 2015; "
    "[GroupLens](https://grouplens.org/datasets/movielens/100k/), whose terms of use apply)."
)


def demo_content(settings: DemoSettings, report: dict[str, Any], say: Callable[[str], None]) -> Content:
    """The content of a finished demo: its users, whose bank is migrated here, its items and held-out ratings.

    Args:
        report: the demo's.
        say: takes a line of progress.

    Raises:
        StorageError, CheckpointError, MismatchError: a part of the demo's output cannot be read, or does not fit.
    """
    out = Path(settings.out)
    with quiet():
        bank, adapter = PromptBank.from_pretrained(out / "source-bank"), PumaAdapter.from_pretrained(out / "adapter")
        rows = DemoRows.load(fetch(DATA, say), settings).splits
        source = PersonalizedScoringPipeline(load_model(SOURCE_MODEL, settings, say, device="cpu"), bank=bank)
        target = PersonalizedScoringPipeline(
            load_model(TARGET_MODEL, settings, say, device="cpu"), bank=bank, adapter=adapter
        )
    every = datasets.concatenate_datasets([rows["train"], rows["validation"]])
    return Content(
        source,
        target,
        tuple(bank.user_ids),
        Items.of(catalogue_of(every), rows["validation"]),
        _WHOSE,
        frozenset(bank.user_ids) - frozenset(chosen_users(bank, rows["train"], settings)),
        Report(read_page(out / PAGE), demo_table(report), (out / PICTURE).read_bytes()),
    )
