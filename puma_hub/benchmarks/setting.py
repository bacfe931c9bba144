"""What benchmarks run on: the models, the rows, and the time they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub.benchmarks.shapes import SHAPES, random_scorer
from puma_hub.data import load_interactions
from puma_hub.demo.fetch import fetch
from puma_hub.demo.load_model import fetched_model
from puma_hub.demo.settings import compute_dtype
from puma_hub.demo.sources import MODELS
from puma_hub.scorer import PersonalizedLM

ITEMS = 200


@dataclass(frozen=True)
class BenchSetting:
    """What every case is given.

    Args:
        models: names of the demo's models or of shapes, see :data:`puma_hub.benchmarks.shapes.SHAPES`, folders or Hub
            ids.
        dtype: of the LLMs; the fastest of this machine by default.
        device: of the LLMs.
        seconds: for a case, about.
        users: of the cases that move prompts of many users.
        folder: for files, which are gone afterwards.
        say: takes a line of progress.
    """

    models: tuple[str, ...]
    dtype: str
    device: str
    seconds: float
    users: int
    folder: Path
    say: Callable[[str], None]

    @property
    def torch_dtype(self) -> torch.dtype:
        return compute_dtype(self.dtype)

    @cached_property
    def rows(self) -> datasets.Dataset:
        """Training rows of MovieLens-100K, all of the 200 items that have most of them.

        For models of random weights alone they are made up in the same lengths, so nothing is downloaded.
        """
        if all(model in SHAPES for model in self.models):
            return made_rows()
        found = load_interactions("movielens-100k", folder=fetch("movielens-100k", self.say), item_statistics=True)
        texts = found["train"].to_pandas()["item_text"]
        kept = set(texts.value_counts().index[:ITEMS])
        return found["train"].select(np.flatnonzero([text in kept for text in texts]).tolist())

    def scorer(self, model: str, **options: Any) -> PersonalizedLM:
        """The scorer of a model, with ``options`` of :class:`PersonalizedLM`."""
        self.say(f"loading {model}")
        if model in SHAPES:
            lm = random_scorer(model, self.rows["item_text"][:], self.torch_dtype, self.device, **options)
            return lm
        identity: dict[str, Any] = {}
        if model in MODELS and not Path(model).is_dir():
            model, identity = fetched_model(model, self.say)
        return PersonalizedLM.from_pretrained(
            model, dtype=self.torch_dtype, device=self.device, **{**identity, **options}
        )


def made_rows(users: int = 50, seed: int = 0) -> datasets.Dataset:
    """Rows of made-up items whose texts look like those of MovieLens with item statistics."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{number}" for number in range(400)])
    titles = [" ".join(rng.choice(words, rng.integers(2, 6))) for _ in range(ITEMS)]
    texts = [
        f"{title} ({1930 + number % 68}), Drama, mean rating 3.{number % 10}" for number, title in enumerate(titles)
    ]
    items = np.concatenate([rng.permutation(ITEMS)[: ITEMS // 2] for _ in range(users)])
    return datasets.Dataset.from_dict(
        {
            "user_id": [f"user-{number:03d}" for number in range(users) for _ in range(ITEMS // 2)],
            "item_id": [f"item-{item:03d}" for item in items],
            "item_text": [texts[item] for item in items],
            "label": rng.integers(1, 6, len(items)).astype(float).tolist(),
        }
    )
