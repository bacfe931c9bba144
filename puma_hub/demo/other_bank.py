"""A second source bank, trained apart on other users: what somebody who downloads the adapter has."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.data import chronological_split, most_recent, of_users, rows_by_user
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.movielens import read_movielens
from puma_hub.evaluation.compare import controls_of
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.migration import migrate
from puma_hub.scorer import PersonalizedLM
from puma_hub.training import PromptTrainer, PumaTrainingArguments

_SHARE, _LEAST = 0.25, 10  # other users, of the demo's number and at least


@dataclass(frozen=True)
class OtherBank:
    """Prompts trained apart, their held-out rows, and how they do on the source LLM."""

    bank: PromptBank
    rows: datasets.Dataset
    before: dict[str, Any]


def train_other_bank(
    lm: PersonalizedLM,
    folder: Path,
    taken: Collection[str],
    rows_per_user: int,
    seed: int,
    work: str,
    say: Callable[[str], None],
) -> OtherBank | None:
    """Train prompts of users who are not ``taken``, with the next seed; None where too few are left."""
    everybody = read_movielens(folder)
    free = sorted(set(rows_by_user(everybody)) - set(taken))
    count = min(len(free), max(_LEAST, int(len(taken) * _SHARE)))
    if count < _LEAST:
        return None
    say(f"training prompts of {count} other users, apart from these")
    chosen = np.random.default_rng(seed + 1).choice(free, count, replace=False).tolist()
    splits = with_item_statistics(chronological_split(most_recent(of_users(everybody, chosen), rows_per_user)))
    bank = PromptTrainer(lm, splits["train"], PumaTrainingArguments(seed=seed + 1, output_dir=work)).train()
    held_out = HeldOut.build(lm, bank, splits["validation"], train=splits["train"])
    return OtherBank(bank, splits["validation"], controls_of(held_out, seed=seed))


def other_controls(lm: PersonalizedLM, adapter: PumaAdapter, other: OtherBank, seed: int) -> dict[str, Any]:
    """The controls of the other bank, migrated, on the target LLM."""
    return controls_of(HeldOut.build(lm, migrate(adapter, other.bank), other.rows), seed=seed)
