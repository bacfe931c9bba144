"""Parts that are banks: trained, migrated, sampled, or of an adapter that was not trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_hub.bank.distribution import PromptDistribution
from puma_hub.demo.target_side import random_bank
from puma_hub.migration import migrate
from puma_hub.reproduce.adapters import TrainedAdapter
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import BANK, ROW, BankPart, Sizes
from puma_hub.training import PromptTrainer
from puma_hub.training.defaults import PROMPT_DEFAULTS
from puma_hub.training.posterior import STEPS


@dataclass(frozen=True)
class TrainedBank(BankPart):
    """The prompts of all users of the seed, trained on an LLM: a source bank, and the retraining baseline."""

    on: str
    arguments: dict[str, Any]

    @property
    def llm(self) -> str:
        return self.on

    @property
    def model(self) -> str:
        return self.on

    @property
    def about(self) -> str:
        how = self.arguments.get("prompt_method")
        return f"training all users' prompts on {self.on}" + (f", {how}" if how else "")

    def work(self, sizes: Sizes) -> float:
        method = self.arguments.get("prompt_method") or "posterior"
        epochs = self.arguments.get("num_train_epochs") or PROMPT_DEFAULTS[method]["num_train_epochs"]
        return ROW * sizes.train * (2.0 * epochs + (3 * STEPS if method == "posterior" else 0))

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        lm, rows = context.lm(self.setup, self.on), context.rows(self.setup).train
        trainer = PromptTrainer(lm, rows, context.arguments(self, folder, self.arguments))
        trainer.train().save_pretrained(folder / BANK)
        return trainer.report


@dataclass(frozen=True)
class MigratedBank(BankPart):
    """The prompts of all users, migrated by an adapter from its source banks."""

    adapter: TrainedAdapter
    banks: tuple[BankPart, ...]

    @property
    def llm(self) -> str:
        return self.adapter.to

    @property
    def about(self) -> str:
        return f"migrating all users to {self.llm}"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank = migrate(context.result(self.adapter), [context.result(part) for part in self.banks])
        bank.save_pretrained(folder / BANK)
        return {"users": len(bank)}


@dataclass(frozen=True)
class SampledBank(BankPart):
    """Prompts drawn from the distribution of a bank's: no user's own."""

    bank: BankPart
    prompts: int

    @property
    def llm(self) -> str:
        return self.bank.llm

    @property
    def about(self) -> str:
        return f"sampling {self.prompts} prompts"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        sampled = PromptDistribution.of(context.result(self.bank)).sample(self.prompts, seed=self.setup.seed)
        sampled.save_pretrained(folder / BANK)
        return {"users": len(sampled)}


@dataclass(frozen=True)
class UntrainedBank(BankPart):
    """The prompts of all users through an adapter that was not trained, with the trained head."""

    adapter: TrainedAdapter
    bank: BankPart

    @property
    def llm(self) -> str:
        return self.adapter.to

    @property
    def model(self) -> str:
        return self.llm

    @property
    def about(self) -> str:
        return "migrating all users through an untrained adapter"

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        lm, source = context.lm(self.setup, self.llm), context.result(self.bank)
        bank = random_bank(lm, source, context.result(self.adapter), self.setup.seed)
        bank.save_pretrained(folder / BANK)
        return {"users": len(bank)}
