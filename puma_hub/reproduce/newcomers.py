"""Parts of the cold start: first prompts of users whom no bank has seen, from few rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data import most_recent
from puma_hub.newcomers.cold_start import cold_start
from puma_hub.reproduce.adapters import TrainedAdapter
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import BANK, ROW, BankPart, Sizes
from puma_hub.training import PromptTrainer

_PAPER_INIT = 0.1  # paper, hyperparameters: uniform(-0.1, 0.1)


class NewcomersBank(BankPart):
    """Prompts of newcomers from their ``rows`` most recent rows, for the LLM of ``bank`` if not stated otherwise."""

    bank: BankPart
    rows: int

    @property
    def llm(self) -> str:
        return self.bank.llm

    @property
    def model(self) -> str:
        return self.llm

    def work(self, sizes: Sizes) -> float:
        return 8.0 * ROW * self.rows * self.setup.data.newcomers + 1


@dataclass(frozen=True)
class ColdStart(NewcomersBank):
    """Newcomers' prompts by :func:`puma_hub.cold_start`, from their ``rows`` most recent rows."""

    adapter: TrainedAdapter
    bank: BankPart
    rows: int

    @property
    def llm(self) -> str:
        return self.adapter.to

    @property
    def about(self) -> str:
        return f"cold start from {self.rows} rows"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        known, rows = context.rows(self.setup), _few_rows(context, self)
        cold_start(
            context.result(self.adapter),
            context.result(self.bank),
            known.newcomers,
            rows,
            lm=context.lm(self.setup, self.llm),
            seed=self.setup.seed,
        ).save_pretrained(folder / BANK)
        return {"rows": 0 if rows is None else len(rows)}


@dataclass(frozen=True)
class RandomStart(NewcomersBank):
    """Newcomers' prompts from a random start by gradient steps, with the head of ``bank`` as it is."""

    bank: BankPart
    rows: int
    steps: int
    batch_size: int
    learning_rate: float

    @property
    def about(self) -> str:
        return f"random start and {self.steps} gradient steps from {self.rows} rows"

    def work(self, sizes: Sizes) -> float:
        return 2.0 * ROW * self.steps * min(self.batch_size, self.rows * self.setup.data.newcomers) + 1

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank, rows = context.result(self.bank), _few_rows(context, self)
        users = context.rows(self.setup).newcomers
        # One user carries the head: prompts of the independent method know nothing of one another.
        carrier = bank.select(bank.user_ids[:1]).with_provenance(details={"prompt_method": "independent"})
        if rows is None:
            drawn = np.random.default_rng(self.setup.seed).uniform(-_PAPER_INIT, _PAPER_INIT, (len(users), *bank.shape))
            _beside(carrier, users, drawn).save_pretrained(folder / BANK)
            return {"rows": 0, "steps": 0}
        steps_an_epoch = math.ceil(len(rows) / self.batch_size)
        epochs = math.ceil(self.steps / steps_an_epoch)
        arguments = {
            "num_train_epochs": epochs,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
        }
        lm = context.lm(self.setup, self.llm)
        trainer = PromptTrainer(lm, rows, context.arguments(self, folder, arguments), bank=carrier)
        trainer.train().select(users).save_pretrained(folder / BANK)
        return {"rows": len(rows), "steps": epochs * steps_an_epoch}


@dataclass(frozen=True)
class JoinedBank(NewcomersBank):
    """Newcomers' prompts trained by the usual method, around the base of a bank that was trained on all others."""

    bank: BankPart
    rows: int

    @property
    def about(self) -> str:
        return f"full training, newcomers with {self.rows} rows"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank, rows = context.result(self.bank), _few_rows(context, self)
        users = context.rows(self.setup).newcomers
        if rows is None:
            mean = bank.prompts.mean(0, dtype=np.float64)
            _beside(bank, users, np.repeat(mean[None], len(users), 0)).save_pretrained(folder / BANK)
            return {"rows": 0}
        lm = context.lm(self.setup, self.llm)
        trainer = PromptTrainer(lm, rows, context.arguments(self, folder, {}), bank=bank)
        trainer.train().select(users).save_pretrained(folder / BANK)
        return {"rows": len(rows)}


def _few_rows(context: Context, part: NewcomersBank) -> datasets.Dataset | None:
    return most_recent(context.rows(part.setup).newcomers_train, part.rows) if part.rows else None


def _beside(bank: PromptBank, users: list[str], prompts: np.ndarray) -> PromptBank:
    """A bank of other users with the head, template and task of ``bank``."""
    facts = bank.provenance
    return PromptBank.from_arrays(
        users, prompts, facts.model, head=bank.head, template=facts.template, task=facts.task, made_by="a first guess"
    )
