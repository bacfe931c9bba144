"""Banks of trainings apart, which share their users' offsets, and adapters that know one of them."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import torch

from puma_hub import (
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PumaAdapter,
    PumaConfig,
)
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from tests.conftest import make_interactions

SOURCE, OTHER, TARGET = ModelSpec("source", 32), ModelSpec("other", 16), ModelSpec("target", 24)
USERS = 40


def make_training(seed: int, spec: ModelSpec = SOURCE, users: int = USERS, spread: float = 0.1) -> PromptBank:
    """The bank of a training with a base of its own; a user's offset is the same in every training."""
    base = np.random.default_rng(seed).normal(size=(1, spec.hidden_size))
    offsets = np.random.default_rng(1000 + spec.hidden_size).normal(size=(users, 1, spec.hidden_size)) * spread
    offsets -= offsets.mean(0)
    return PromptBank.from_arrays([f"user-{user}" for user in range(users)], base + offsets, spec)


def make_trained(bank: PromptBank, *others: PromptBank, architecture: str = "seed") -> PumaAdapter:
    """An adapter standardised on banks, as a training leaves it."""
    torch.manual_seed(0)
    banks = [bank, *others]
    config = PumaConfig(sources=[b.model for b in banks], target=TARGET, hidden_size=48, architecture=architecture)
    adapter = PumaAdapter(config).eval()
    known = [b.statistics for b in banks]
    mean = np.concatenate([part.mean for part in known], axis=-1)
    adapter.standardize(torch.from_numpy(mean), [part.spread for part in known], 2.0)
    with torch.no_grad():
        adapter.base.normal_()
        adapter.output_mean.normal_()
    facts = tuple(SourceBank(part.base_id, part.spread, part.users) for part in known)
    adapter.config.trained_on = TrainedOn(facts, 2.0, 0.5, len(bank), (0.5, -1.5))
    return adapter


def plain(adapter: PumaAdapter, prompts: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return adapter(torch.from_numpy(prompts.copy())).target_prompts.numpy()


def make_teaching(make_lm: Callable[..., PersonalizedLM]) -> tuple[PersonalizedLM, datasets.Dataset]:
    return make_lm("gemma3", 1), make_interactions(USERS, 4)
