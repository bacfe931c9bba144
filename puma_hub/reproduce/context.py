"""What parts are computed with: one LLM at a time, the rows of a seed, and the parts that are done."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.data import load_interactions, of_users, rows_by_user, sample_users
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.demo.fetch import fetch
from puma_hub.demo.load_model import fetched_model
from puma_hub.demo.settings import compute_dtype
from puma_hub.demo.sources import MODELS, SOURCES
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import DATASETS
from puma_hub.reproduce.part import Part, Setup, Sizes
from puma_hub.reproduce.store import WORK, Store
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import Task, task_from_dict
from puma_hub.training import PumaTrainingArguments


@dataclass(frozen=True)
class SeedRows:
    """The rows of a seed: of its users, and of newcomers whom no bank has seen.

    Item statistics are those of the users' training rows, also in the newcomers' texts.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    newcomers_train: datasets.Dataset
    newcomers_validation: datasets.Dataset

    @cached_property
    def newcomers(self) -> list[str]:
        """The newcomers with held-out rows, in the order of their ids."""
        return sorted(rows_by_user(self.newcomers_validation))

    @cached_property
    def sizes(self) -> Sizes:
        texts = {text for part in (self.train, self.validation) for text in part["item_text"]}
        return Sizes(
            len(self.train),
            len(self.validation),
            len(self.newcomers_validation),
            len(texts),
            len(rows_by_user(self.train)),
        )


class Context:
    """What parts are computed with.

    Args:
        store: of the parts.
        say: takes a line of progress.
        device: of the LLMs.
        llms_at_once: how many are kept in memory, with their prefix caches.
    """

    def __init__(
        self, store: Store, say: Callable[[str], None], device: str | None = None, llms_at_once: int = 1
    ) -> None:
        self._store, self._say, self._device, self._room = store, say, device, llms_at_once
        self._lms: dict[str, PersonalizedLM] = {}  # the one used last at the end
        self._lms_of: Setup | None = None
        self._everybody: tuple[str, datasets.DatasetDict] | None = None
        self._rows: tuple[Setup, SeedRows] | None = None

    def result(self, part: Part) -> Any:
        """What a part that is done holds."""
        return self._store.read(part)

    def facts(self, part: Part) -> dict[str, Any]:
        """What computing a part told."""
        return self._store.facts(part)

    def task(self, setup: Setup) -> Task:
        return task_from_dict(setup.task)

    def lm(self, setup: Setup, name: str) -> PersonalizedLM:
        """The scorer of an LLM. It takes the place of the one used longest ago; with a new seed all are made anew."""
        if setup != self._lms_of:
            self.forget_lms()
            self._lms_of = setup
        if name in self._lms:
            self._lms[name] = self._lms.pop(name)
            return self._lms[name]
        while len(self._lms) >= self._room:
            self.forget_lm(next(iter(self._lms)))
        where, identity = self._located(name)
        self._say(f"loading {name}")
        lm = PersonalizedLM.from_pretrained(
            where,
            template=setup.template,
            task=self.task(setup),
            dtype=compute_dtype(setup.dtype),
            device=self._device,
            **identity,
        )
        self._lms[name] = lm
        return lm

    def forget_lms(self) -> None:
        """Free all LLMs."""
        for name in list(self._lms):
            self.forget_lm(name)

    def forget_lm(self, name: str) -> None:
        """Free an LLM and its prefix cache, if it is in memory."""
        self._lms.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _located(self, name: str) -> tuple[str, dict[str, Any]]:
        if name in MODELS and not Path(name).is_dir():
            return fetched_model(name, self._say)
        return name, {}

    def rows(self, setup: Setup) -> SeedRows:
        """The rows of a seed.

        Raises:
            ConfigurationError: too few users are left for newcomers.
        """
        if self._rows is None or self._rows[0] != setup:
            self._rows = setup, self._drawn(setup)
        return self._rows[1]

    def _drawn(self, setup: Setup) -> SeedRows:
        data, everybody = setup.data, self._loaded(setup)
        own = sorted(rows_by_user(sample_users(everybody["train"], data.users, setup.seed)))
        free = sorted(set(rows_by_user(everybody["train"])) - set(own))
        if len(free) < data.newcomers:
            raise ConfigurationError(
                f"data.users={data.users} leave {len(free)} of {len(own) + len(free)} users, data.newcomers asks for "
                f"{data.newcomers}; make one of them smaller"
            )
        drawn = np.random.default_rng(setup.seed + 1).choice(free, data.newcomers, replace=False).tolist()
        splits = {name: of_users(everybody[name], own) for name in ("train", "validation")}
        splits |= {f"newcomers_{name}": of_users(everybody[name], drawn) for name in ("train", "validation")}
        found = datasets.DatasetDict(splits)
        return SeedRows(**(with_item_statistics(found) if data.item_statistics else found))

    def _loaded(self, setup: Setup) -> datasets.DatasetDict:
        data = setup.data
        wanted = repr((data, setup.stamp, setup.task))
        if self._everybody is None or self._everybody[0] != wanted:
            folder = data.folder
            if folder is None and data.name in DATASETS and data.name in SOURCES:
                folder = str(fetch(data.name, self._say))
            found = load_interactions(
                data.name,
                folder=folder,
                task=self.task(setup),
                rows_per_user=data.rows_per_user,
                held_out=data.held_out,
                negatives=data.negatives,
                likes_from=data.likes_from,
                **data.options,
            )
            self._everybody = wanted, found
        return self._everybody[1]

    def arguments(self, part: Part, folder: Path, arguments: dict[str, Any]) -> PumaTrainingArguments:
        """Arguments of a training whose checkpoint is in the part's folder."""
        ours = {"seed": part.setup.seed, "output_dir": str(folder / WORK), "disable_tqdm": True}
        return PumaTrainingArguments(**{**arguments, **ours})


def stamp_of(path: str | None) -> str:
    """Names, sizes and times of a file, or of the files in a folder, as text; empty where there is none."""
    if path is None or not Path(path).exists():
        return ""
    place = Path(path)
    files: Sequence[Path] = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
    return ";".join(f"{one.name}:{one.stat().st_size}:{one.stat().st_mtime_ns}" for one in files)
