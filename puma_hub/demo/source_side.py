"""The demo's first half, on the source LLM: prompts, whom to train on, what the teacher says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from puma_hub.bank import PromptBank
from puma_hub.data import catalogue_of
from puma_hub.data.rows import numbers, texts
from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.settings import DemoSettings
from puma_hub.demo.stages import Stages
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.evaluate import HeldOut, evaluate_rows
from puma_hub.scorer import PersonalizedLM
from puma_hub.selection import select_users
from puma_hub.training import PromptTrainer, PumaTrainingArguments, draw_rows, with_source_predictions
from puma_hub.training.report import forward_flops
from puma_hub.training.teacher import PREDICTION


@dataclass(frozen=True)
class OtherBank:
    """Prompts trained apart, of other users, and the predictions of their held-out rows."""

    bank: PromptBank
    controls: Controls


@dataclass(frozen=True)
class SourceSide:
    """What the source LLM leaves for the rest of the demo.

    ``results`` are reports of ``evaluate_bank`` by prediction. ``taught`` are the adapter's training rows, of the
    users ``chosen``; ``unseen`` are the predictions for the other users.
    """

    bank: PromptBank
    results: dict[str, dict[str, Any]]
    chosen: list[str]
    taught: datasets.Dataset
    unseen: Controls
    other: OtherBank | None
    seconds: dict[str, float]
    teacher_flops: float

    @property
    def unseen_users(self) -> list[str]:
        return sorted(set(self.bank.user_ids) - set(self.chosen))


def read_texts(lm: PersonalizedLM, parts: Sequence[datasets.Dataset]) -> None:
    """Compute the prefix caches of all rows' texts at once, so that no step computes one again."""
    rows = datasets.concatenate_datasets([part.select_columns("item_text") for part in parts])
    lm.fill_cache(lm.encode(rows))


def trained_arguments(settings: DemoSettings, name: str, **changed: Any) -> PumaTrainingArguments:
    """Arguments of a training whose checkpoint is ``work/name`` of the demo's folder."""
    folder = str(Path(settings.out) / "work" / name)
    return PumaTrainingArguments(**{"seed": settings.seed, "output_dir": folder, "disable_tqdm": True, **changed})


def on_source(lm: PersonalizedLM, rows: DemoRows, settings: DemoSettings, stages: Stages) -> SourceSide:
    """Train the source bank, choose the adapter's users and ask the teacher; leave the bank in the demo's folder."""
    train, validation = rows.splits["train"], rows.splits["validation"]
    with stages.stage("source_texts", f"reading the items' texts with {lm.spec.model_id}"):
        read_texts(lm, [train, validation])
    trainer = PromptTrainer(lm, train, trained_arguments(settings, "source"))
    users = len(trainer.users)
    with stages.stage("source_prompts", f"training {users} users' prompts on {len(train):,} rows"):
        bank = trainer.train()
    bank.save_pretrained(Path(settings.out) / "source-bank")
    seconds = {"source": trainer.report["seconds"]["until_best_epoch"] + stages.seconds["source_texts"]}

    with stages.stage("source_scores", "scoring held-out rows, choosing the adapter's users, asking the teacher"):
        held_out = HeldOut.build(lm, bank, validation)
        results = {"source": evaluate_rows(held_out, train), "teacher": _teacher(lm, bank, validation)}
        began = time.monotonic()
        chosen = chosen_users(bank, train, settings)
        seconds["selection"] = time.monotonic() - began
        unseen = Controls.of(held_out, sorted(set(bank.user_ids) - set(chosen)), settings.seed)
        began = time.monotonic()
        count = min(settings.adapter_rows, max(1, len(train) // 2))
        asked = draw_rows(bank, catalogue_of(train), count, users=chosen, seed=settings.seed)
        taught = with_source_predictions(lm, bank, asked, seed=settings.seed)
        seconds["teacher"] = time.monotonic() - began
    encoded = lm.encode(taught.select_columns("item_text"), bank.shape[0])
    teacher_flops = forward_flops(lm, encoded, bank.shape[0])[0]
    other = _train_apart(lm, rows.others, settings, stages)
    return SourceSide(bank, results, chosen, taught, unseen, other, seconds, teacher_flops)


def chosen_users(bank: PromptBank, train: datasets.Dataset, settings: DemoSettings) -> list[str]:
    """The users that the adapter trains on."""
    return select_users(bank, train, "puma", settings.selected(len(bank)), settings.seed)


def _teacher(lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset) -> dict[str, Any]:
    """The teacher's own figures on held-out rows, in the form of a report of ``evaluate_bank``."""
    answers = with_source_predictions(lm, bank, rows, noise=0.0)
    users = texts(answers, "user_id")
    metrics = lm.task.scores(numbers(answers, PREDICTION), numbers(answers, "label"), users)
    return {"metrics": metrics, "rows": len(answers), "users": len(set(users))}


def _train_apart(
    lm: PersonalizedLM, rows: datasets.DatasetDict | None, settings: DemoSettings, stages: Stages
) -> OtherBank | None:
    """Prompts of other users, trained with the next seed: what somebody who downloads the adapter has."""
    if rows is None:
        return None
    trainer = PromptTrainer(lm, rows["train"], trained_arguments(settings, "other", seed=settings.seed + 1))
    with stages.stage("other_prompts", f"training prompts of {len(trainer.users)} other users, apart from these"):
        bank = trainer.train()
        held_out = HeldOut.build(lm, bank, rows["validation"], train=rows["train"])
        return OtherBank(bank, Controls.of(held_out, seed=settings.seed))
