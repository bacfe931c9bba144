"""A part of an experiment: something that is computed once, kept, and shared by all experiments that need it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_hub.bank import PromptBank
from puma_hub.reproduce.config import DataConfig

if TYPE_CHECKING:
    from puma_hub.reproduce.context import Context

FORMAT_VERSION = 2
TEXT, ROW = 30, 4
"""Work in tokens that go through an LLM: of an item's text, and of a row after it, forward or backward."""
BANK = "bank"
"""The folder of a bank in that of its part."""


@dataclass(frozen=True)
class Sizes:
    """Rows and texts of a seed, for estimates of work."""

    train: int
    validation: int
    newcomers: int
    texts: int
    users: int


@dataclass(frozen=True)
class Setup:
    """What all parts of a seed share.

    Args:
        data: the interactions.
        stamp: of the files of the data, where they are named by a path.
        task: as :meth:`puma_hub.tasks.Task.to_dict` gives it.
        template: of the scorers; the task's by default.
        dtype: of the LLMs.
        stamps: of the files of models, where these are folders, by name.
        seed: of everything random.
    """

    data: DataConfig
    stamp: str
    task: dict[str, Any]
    template: str | None
    dtype: str
    stamps: dict[str, str]
    seed: int


@dataclass(frozen=True)
class Part(ABC):
    """One part. Its fields decide what comes out, and are all that does.

    A subclass is a frozen dataclass; fields that are parts are what it needs.
    """

    setup: Setup

    @property
    def model(self) -> str | None:
        """The LLM that computing it takes, None where it takes none."""
        return None

    @property
    def leaves(self) -> str | None:
        """The LLM that is in memory afterwards; None where it is the one before."""
        return self.model

    @property
    @abstractmethod
    def about(self) -> str:
        """What is done, for a line of progress."""

    def work(self, sizes: Sizes) -> float:
        """About how much it is, in tokens that go through an LLM."""
        return 1.0

    @abstractmethod
    def make(self, context: Context, folder: Path) -> dict[str, Any]:
        """Compute it, leave its files in ``folder`` and return its facts, as JSON can hold them.

        ``folder/work`` is kept while the work is not done, for checkpoints to go on from.
        """

    def read(self, folder: Path, facts: dict[str, Any]) -> Any:
        """What others take of it, from its files and facts; the facts by default."""
        return facts

    @cached_property
    def needs(self) -> list[Part]:
        """The parts it is computed from."""
        return [part for field in fields(self) for part in _parts(getattr(self, field.name))]

    @cached_property
    def key(self) -> str:
        """A hash of what decides it: 16 hexadecimal digits."""
        text = json.dumps([FORMAT_VERSION, self.described()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """Its kind and fields as plain data, with the keys of the parts it needs."""
        return {"kind": type(self).__name__, **{one.name: _plain(getattr(self, one.name)) for one in fields(self)}}


@dataclass(frozen=True)
class BankPart(Part):
    """A part that is a bank of prompts."""

    @property
    @abstractmethod
    def llm(self) -> str:
        """The LLM whose prompts these are."""

    def read(self, folder: Path, facts: dict[str, Any]) -> PromptBank:
        return PromptBank.from_pretrained(folder / BANK)


def _parts(value: Any) -> Iterator[Part]:
    if isinstance(value, Part):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _parts(one)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.key
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value
