"""Parts on the way to an adapter: whom it trains on, the rows it learns from, and itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.data import rows_by_user
from puma_hub.extensions import STRATEGIES
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.lessons import Lessons
from puma_hub.reproduce.part import ROW, BankPart, Part, Sizes
from puma_hub.selection import select_users
from puma_hub.storage import read_json, write_json
from puma_hub.training import AdapterTrainer

_USERS, _ADAPTER = "users.json", "adapter"
_LM = "lm"  # the option of strategies that ask the source LLM


@dataclass(frozen=True)
class Selection(Part):
    """The users an adapter trains on: a share of the bank's, by a strategy."""

    bank: BankPart
    strategy: str
    share: float

    @property
    def model(self) -> str | None:
        return self.bank.llm if self._asks_llm else None

    @property
    def about(self) -> str:
        return f"selecting {self.share:.0%} of the users, strategy {self.strategy}"

    @property
    def _asks_llm(self) -> bool:
        return _LM in STRATEGIES.options(self.strategy)

    def work(self, sizes: Sizes) -> float:
        return 1.0 * ROW * sizes.train if self._asks_llm else 1.0

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank, rows = context.result(self.bank), context.rows(self.setup).train
        options: dict[str, Any] = {_LM: context.lm(self.setup, self.bank.llm)} if self._asks_llm else {}
        budget = max(1, round(self.share * len(bank)))
        users = select_users(bank, rows, self.strategy, budget, self.setup.seed, **options)
        write_json(folder / _USERS, {"users": users})
        return {"users": len(users), "of": len(bank)}

    def read(self, folder: Path, facts: dict[str, Any]) -> list[str]:
        users: list[str] = read_json(folder / _USERS)["users"]
        return users


@dataclass(frozen=True)
class TrainedAdapter(Part):
    """An adapter from one or several banks to an LLM, trained on the users of its lessons."""

    to: str
    banks: tuple[BankPart, ...]
    lessons: Lessons
    architecture: str
    arguments: dict[str, Any]

    @property
    def model(self) -> str:
        return self.to

    @property
    def about(self) -> str:
        sources = " + ".join(part.llm for part in self.banks)
        return f"training an adapter {sources} -> {self.to}, {self.lessons.told}"

    def work(self, sizes: Sizes) -> float:
        return 2.0 * ROW * self.lessons.rows_of(sizes) * (self.arguments.get("num_train_epochs") or 1)

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        rows = context.result(self.lessons)
        arguments = dict(self.arguments)
        if self.lessons.taught and self.architecture != "paper":
            # Solved for by all rows, without an epoch that validation would have to choose.
            arguments = {"start_rows": len(rows), "validation_share": 0.0, **arguments}
        trainer = AdapterTrainer(
            context.lm(self.setup, self.to),
            [context.result(part) for part in self.banks],
            rows,
            context.arguments(self, folder, arguments),
            users=sorted(rows_by_user(rows)),
            config=PumaConfig(architecture=self.architecture),
        )
        trainer.train().save_pretrained(folder / _ADAPTER)
        return trainer.report

    def read(self, folder: Path, facts: dict[str, Any]) -> PumaAdapter:
        adapter: PumaAdapter = PumaAdapter.from_pretrained(folder / _ADAPTER)
        return adapter.eval()
