"""Parts that are the rows an adapter learns from: labelled ones, or what the source LLM says of rows."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from puma_hub.data import most_recent, of_users
from puma_hub.data.catalogue import catalogue_of
from puma_hub.data.rows import flat, from_table
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import ROW, BankPart, Part, Sizes
from puma_hub.storage import new_file
from puma_hub.training import draw_rows, with_source_predictions
from puma_hub.training.report import forward_flops
from puma_hub.training.teachers import combine_teachers

_ROWS = "rows.parquet"


@dataclass(frozen=True)
class Lessons(Part):
    """Rows for an adapter to learn from."""

    @property
    def taught(self) -> bool:
        """Whether it learns the predictions of a source LLM; or else labels."""
        return True

    @property
    @abstractmethod
    def told(self) -> str:
        """What it learns from, in words."""

    @abstractmethod
    def rows_of(self, sizes: Sizes) -> float:
        """About how many rows these are."""

    def read(self, folder: Path, facts: dict[str, Any]) -> datasets.Dataset:
        return from_table(pq.read_table(folder / _ROWS))


@dataclass(frozen=True)
class LabelledRows(Lessons):
    """The most recent training rows of the selected users, with their labels."""

    selection: Part
    rows_per_user: int | None

    @property
    def taught(self) -> bool:
        return False

    @property
    def told(self) -> str:
        return "from labels"

    @property
    def about(self) -> str:
        return "taking the selected users' rows"

    def rows_of(self, sizes: Sizes) -> float:
        return _rows_of(self.selection, self.rows_per_user, sizes)

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        rows = _own_rows(context, self)
        _write(rows, folder)
        return {"rows": len(rows)}


@dataclass(frozen=True)
class TaughtRows(Lessons):
    """The same rows, with what the source LLM predicts for them with the prompts of ``bank``.

    ``options`` are those of :func:`puma_hub.with_source_predictions`.
    """

    bank: BankPart
    selection: Part
    rows_per_user: int | None
    options: dict[str, Any]

    @property
    def model(self) -> str:
        return self.bank.llm

    @property
    def told(self) -> str:
        return "from source predictions of the users' own rows"

    @property
    def about(self) -> str:
        return f"asking {self.model} about the selected users' rows"

    def rows_of(self, sizes: Sizes) -> float:
        return _rows_of(self.selection, self.rows_per_user, sizes)

    def work(self, sizes: Sizes) -> float:
        return ROW * self.rows_of(sizes)

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        return _ask(context, self.bank, _own_rows(context, self), self.options, folder, self)


@dataclass(frozen=True)
class DrawnRows(Lessons):
    """Rows of users of ``bank`` and items of the training rows, paired at random, with the source's predictions.

    ``options`` are those of :func:`puma_hub.with_source_predictions`.
    """

    bank: BankPart
    selection: Part | None
    items: int
    rows: int
    options: dict[str, Any]

    @property
    def model(self) -> str:
        return self.bank.llm

    @property
    def told(self) -> str:
        return f"from source predictions of {self.rows} drawn rows of {self.items} items"

    @property
    def about(self) -> str:
        return f"asking {self.model} about {self.rows} drawn rows"

    def rows_of(self, sizes: Sizes) -> float:
        return self.rows

    def work(self, sizes: Sizes) -> float:
        return ROW * self.rows

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        bank = context.result(self.bank)
        users = None if self.selection is None else context.result(self.selection)
        history = "<history>" in context.lm(self.setup, self.model).template.text
        drawn = draw_rows(
            bank,
            catalogue_of(context.rows(self.setup).train),
            self.rows,
            items=self.items,
            users=users,
            history=history,
            seed=self.setup.seed,
        )
        return _ask(context, self.bank, drawn, self.options, folder, self)


@dataclass(frozen=True)
class AggregatedRows(Lessons):
    """The rows that several sources were asked about, with the mean of their predictions."""

    lessons: tuple[Lessons, ...]

    @property
    def told(self) -> str:
        return f"from the mean of {len(self.lessons)} sources' predictions"

    @property
    def about(self) -> str:
        return f"taking the mean of {len(self.lessons)} sources' predictions"

    def rows_of(self, sizes: Sizes) -> float:
        return self.lessons[0].rows_of(sizes)

    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        rows = combine_teachers([context.result(part) for part in self.lessons])
        _write(rows, folder)
        return {"rows": len(rows)}


def _own_rows(context: Context, part: LabelledRows | TaughtRows) -> datasets.Dataset:
    rows = of_users(context.rows(part.setup).train, context.result(part.selection))
    return rows if part.rows_per_user is None else most_recent(rows, part.rows_per_user)


def _rows_of(selection: Part, rows_per_user: int | None, sizes: Sizes) -> float:
    each = sizes.train / sizes.users
    share: float = getattr(selection, "share", 1.0)
    return share * sizes.users * (each if rows_per_user is None else min(each, rows_per_user))


def _ask(
    context: Context,
    bank_part: BankPart,
    rows: datasets.Dataset,
    options: dict[str, Any],
    folder: Path,
    part: Lessons,
) -> dict[str, Any]:
    """Ask the source LLM about ``rows``; its cost is counted with the items' texts apart."""
    lm, bank = context.lm(part.setup, bank_part.llm), context.result(bank_part)
    encoded = lm.encode(rows.select_columns(lm.template.columns(rows.column_names)), bank.shape[0])
    lm.fill_cache(encoded)
    began = time.monotonic()
    taught = with_source_predictions(lm, bank, rows, **{"seed": part.setup.seed, **options})
    seconds = time.monotonic() - began
    _write(taught, folder)
    after, before = forward_flops(lm, encoded, bank.shape[0])
    return {"rows": len(taught), "seconds": seconds, "flops": after, "prefix_flops": before}


def _write(rows: datasets.Dataset, folder: Path) -> None:
    with new_file(folder / _ROWS) as staged:
        pq.write_table(flat(rows).data.table, staged)
