"""Parts that are figures: errors on held-out rows, personal gains, baselines, and the cost of items' texts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_hub.data.rows import numbers, texts
from puma_hub.evaluation.baselines import baseline_predictions
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.evaluate import HeldOut, evaluate_rows
from puma_hub.reproduce.adapters import Selection
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import ROW, TEXT, BankPart, Part, Sizes
from puma_hub.training.report import forward_flops

ALL, NEWCOMERS = "all users", "newcomers"


@dataclass(frozen=True)
class Scores(Part):
    """The report of :func:`puma_hub.evaluate_bank` on the held-out rows of ``whose`` users."""

    bank: BankPart
    whose: str = ALL

    @property
    def model(self) -> str:
        return self.bank.llm

    @property
    def about(self) -> str:
        return f"scoring held-out rows of {self.whose} on {self.bank.llm}"

    def work(self, sizes: Sizes) -> float:
        return ROW * (sizes.validation if self.whose == ALL else sizes.newcomers)

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        rows = context.rows(self.setup)
        held_out = rows.validation if self.whose == ALL else rows.newcomers_validation
        lm = context.lm(self.setup, self.bank.llm)
        return evaluate_rows(HeldOut.build(lm, context.result(self.bank), held_out))


@dataclass(frozen=True)
class PersonalGain(Part):
    """Own prompts against one mean prompt and deranged prompts, for users outside a selection.

    The report of :func:`puma_hub.evaluation.controls`.
    """

    bank: BankPart
    selection: Selection

    @property
    def model(self) -> str:
        return self.bank.llm

    @property
    def about(self) -> str:
        return f"scoring own, mean and deranged prompts of the other users on {self.bank.llm}"

    def work(self, sizes: Sizes) -> float:
        return 3.0 * ROW * sizes.validation

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        lm, bank = context.lm(self.setup, self.bank.llm), context.result(self.bank)
        chosen = set(context.result(self.selection))
        held_out = HeldOut.build(lm, bank, context.rows(self.setup).validation)
        unseen = [user for user in bank.user_ids if user not in chosen]
        return Controls.of(held_out, unseen, self.setup.seed).report()


@dataclass(frozen=True)
class Baselines(Part):
    """The errors of all baselines without an LLM on the held-out rows, by their names."""

    @property
    def about(self) -> str:
        return "baselines without an LLM"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        rows, task = context.rows(self.setup), context.task(self.setup)
        labels, users = numbers(rows.validation, "label"), texts(rows.validation, "user_id")
        predicted = baseline_predictions(rows.train, rows.validation)
        return {name: task.scores(values, labels, users) for name, values in predicted.items()}


@dataclass(frozen=True)
class ReadTexts(Part):
    """What it costs an LLM to read the texts of all training rows once, into an empty prefix cache."""

    on: str
    prompt_length: int

    @property
    def model(self) -> str:
        return self.on

    @property
    def about(self) -> str:
        return f"reading the items' texts with {self.on}"

    def work(self, sizes: Sizes) -> float:
        return 1.0 * TEXT * sizes.texts

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        context.forget_lm(self.on)
        lm, rows = context.lm(self.setup, self.on), context.rows(self.setup).train
        encoded = lm.encode(rows.select_columns(lm.template.columns(rows.column_names)), self.prompt_length)
        began = time.monotonic()
        lm.fill_cache(encoded)
        seconds = time.monotonic() - began
        return {"seconds": seconds, "flops": forward_flops(lm, encoded, self.prompt_length)[1]}
