"""The part that scores adapters without any training: maps between two vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_hub.adapter import PumaConfig
from puma_hub.adapter.warm_start import warm_start
from puma_hub.errors import PumaHubError
from puma_hub.evaluation import evaluate_bank
from puma_hub.migration import migrate
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import ROW, BankPart, Part, Sizes
from puma_hub.training import untrained_adapter

METRICS, LEFT_OUT = "metrics", "left_out"


@dataclass(frozen=True)
class WarmStartScores(Part):
    """The metrics of all users' prompts through each of ``methods``, by its name.

    A method that cannot map these vocabularies, for instance since they share too little, is left out with the reason.
    It takes both LLMs, the source first.
    """

    bank: BankPart
    to: str
    methods: tuple[str, ...]

    @property
    def model(self) -> str:
        return self.bank.llm

    @property
    def leaves(self) -> str:
        return self.to

    @property
    def about(self) -> str:
        return f"mapping the vocabulary of {self.model} to that of {self.to}, without training"

    def work(self, sizes: Sizes) -> float:
        return 1.0 * len(self.methods) * ROW * sizes.validation

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank = context.result(self.bank)
        source = context.lm(self.setup, self.model)
        embeddings, tokenizer = source.input_embeddings().cpu(), source.tokenizer
        del source  # its memory is for the next one
        lm, rows = context.lm(self.setup, self.to), context.rows(self.setup).validation
        config = {"sources": [bank.model], "target": lm.spec, "prompt_length": bank.shape[0]}
        config |= {"architecture": "linear", "task": lm.task, "template": lm.template}
        found: dict[str, Any] = {METRICS: {}, LEFT_OUT: {}}
        for method in self.methods:
            try:
                target = lm.input_embeddings().cpu(), lm.tokenizer
                start = warm_start(PumaConfig(**config), embeddings, tokenizer, *target, method=method)
            except PumaHubError as error:
                found[LEFT_OUT][method] = str(error)
                continue
            migrated = migrate(untrained_adapter(lm, bank, start), bank)
            found[METRICS][method] = evaluate_bank(lm, migrated, rows)["metrics"]
        return found
