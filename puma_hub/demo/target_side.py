"""The demo's second half, on the target LLM: the adapter, migrating all users, and retraining beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.bank import PromptBank
from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.settings import DemoSettings
from puma_hub.demo.source_side import SourceSide, read_texts, trained_arguments
from puma_hub.demo.stages import Stages
from puma_hub.evaluation import evaluate_bank
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.evaluate import HeldOut, evaluate_rows
from puma_hub.migration import migrate
from puma_hub.scorer import PersonalizedLM
from puma_hub.training import AdapterTrainer, PromptTrainer

_SHAPE = ("sources", "prompt_length", "architecture", "hidden_size", "dropout", "task", "template", "rating_head")


@dataclass(frozen=True)
class TargetSide:
    """What the target LLM says.

    ``bank`` holds the migrated prompts of all users. ``results`` are reports of ``evaluate_bank`` by prediction;
    ``unseen`` and ``other`` the predictions for the users the adapter never saw and for those of the bank trained
    apart; ``training`` the trainers' reports, ``adapter`` and ``retraining``.
    """

    adapter: PumaAdapter
    bank: PromptBank
    results: dict[str, dict[str, Any]]
    unseen: Controls
    other: Controls | None
    training: dict[str, dict[str, Any]]
    seconds: dict[str, float]


def on_target(
    lm: PersonalizedLM,
    rows: DemoRows,
    source: SourceSide,
    settings: DemoSettings,
    stages: Stages,
    keep: Callable[[PumaAdapter], None],
) -> TargetSide:
    """Train the adapter, migrate all users and retrain all users; leave the migrated bank in the demo's folder.

    ``keep`` is given the adapter as soon as there is one.
    """
    train, validation = rows.splits["train"], rows.splits["validation"]
    others = [rows.others["validation"]] if rows.others is not None else []
    with stages.stage("target_texts", f"reading the items' texts with {lm.spec.model_id}"):
        read_texts(lm, [train, validation, *others])
    learner = AdapterTrainer(
        lm,
        source.bank,
        source.taught,
        trained_arguments(settings, "adapter", validation_share=0.0),
        users=source.chosen,
    )
    with stages.stage("adapter", f"training the adapter on {len(source.chosen)} of {len(source.bank)} users"):
        adapter = learner.train()
    keep(adapter)
    with stages.stage("target_scores", "migrating all users, scoring held-out rows"):
        began = time.monotonic()
        migrated = migrate(adapter, source.bank)
        seconds = {"migration": time.monotonic() - began}
        migrated.save_pretrained(Path(settings.out) / "migrated-bank")
        held_out = HeldOut.build(lm, migrated, validation)
        results = {"migrated": evaluate_rows(held_out)}
        unseen = Controls.of(held_out, source.unseen_users, settings.seed)
        other = None
        if source.other is not None:
            moved = HeldOut.build(lm, migrate(adapter, source.other.bank), others[0])
            other = Controls.of(moved, seed=settings.seed)
        results["random"] = evaluate_bank(lm, random_bank(lm, source.bank, adapter, settings.seed), validation)
    again = PromptTrainer(lm, train, trained_arguments(settings, "retrained"))
    with stages.stage("retraining", "retraining every user's prompt on the target, the baseline"):
        results["retrained"] = evaluate_bank(lm, again.train(), validation)
    training = {"adapter": learner.report, "retraining": again.report}
    return TargetSide(adapter, migrated, results, unseen, other, training, seconds)


def random_bank(lm: PersonalizedLM, source: PromptBank, adapter: PumaAdapter, seed: int) -> PromptBank:
    """Prompts of an untrained adapter, with the trained head: what the head does alone."""
    torch.manual_seed(seed)
    shape = {name: getattr(adapter.config, name) for name in _SHAPE}
    untrained = PumaAdapter(PumaConfig(**shape, target=lm.spec))
    trained = adapter.config.trained_on
    untrained.standardize(adapter.input_mean, [bank.spread for bank in trained.sources], lm.embedding_rms)
    if untrained.head is not None and adapter.head is not None:
        untrained.head.load_state_dict(adapter.head.state_dict())
    return migrate(untrained.eval(), source)
