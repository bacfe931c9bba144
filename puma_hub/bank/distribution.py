"""The Gaussian that a bank's prompts follow: enough to train an adapter by, and no user's prompt."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sklearn.decomposition import PCA

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.privacy import PrivacyBudget, private_factors
from puma_hub.bank.provenance import Provenance
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, StorageError, first_line, shown
from puma_hub.limits import MAX_USERS, require_number, require_whole
from puma_hub.storage import new_file
from puma_hub.tasks import RatingHead

RANK = 64
LEAST_USERS = 30
"""A Gaussian of fewer users would tell too much of each."""
_MOST_USERS = 100_000  # more say nothing new of a mean and a covariance
PRIVACY = "privacy"
"""Among the details of a distribution whose covariance is private: its guarantee."""
_HEAD = "head."
_KEY = "puma_hub_distribution"
_OURS = "sampled"


@dataclass(frozen=True, eq=False)
class PromptDistribution:
    """A Gaussian with a low-rank covariance, and what else is needed to train an adapter: provenance and head.

    The covariance is ``factors^T factors + noise_variance * identity``, that of probabilistic principal component
    analysis: beyond the leading directions, in which few users say little, every direction has the mean variance of
    those left out (Tipping and Bishop, 1999).

    Args:
        provenance: of the bank, without what tells of single rows of its training.
        factors: float32 ``(k, l * d)``.
        noise_variance: of one coordinate, in the LLM's units squared.
        users: of how many users.
        head: the bank's rating head.

    Raises:
        BankError: values are not finite, of another shape, or the bank's mean is not known.
    """

    provenance: Provenance
    factors: np.ndarray
    noise_variance: float
    users: int
    head: RatingHead | None = None

    def __post_init__(self) -> None:
        known, shape = self.provenance.statistics, self.factors.shape
        if known is None:
            raise BankError("a distribution needs the mean of its bank's training, and the provenance has none")
        if len(shape) != 2 or shape[1] != known.mean.size or not np.isfinite(self.factors).all():
            raise BankError(f"factors must be finite and of shape (k, {known.mean.size}), got {shape}; make them again")
        if not (math.isfinite(self.noise_variance) and self.noise_variance >= 0 and self.users >= 1):
            raise BankError(
                f"a distribution needs a finite variance and at least 1 user, got {shown(self.noise_variance)} "
                f"and {shown(self.users)}; make it again"
            )
        self.provenance.require_head(self.head)

    @classmethod
    def of(
        cls, bank: PromptBank, rank: int = RANK, *, privacy: PrivacyBudget | None = None, seed: int = 42
    ) -> PromptDistribution:
        """The distribution of a bank's prompts.

        With ``privacy`` the covariance is differentially private: noise hides any one user's part in it. The mean, the
        spread and the head are those of the bank's training and have no such guarantee.

        Args:
            rank: directions of the covariance, at most; a file of 64 for prompts of size 2048 has 0.5 MB.
            privacy: the guarantee. It takes thousands of users; the noise of few hides all directions.
            seed: of the users it is computed from, where there are more than 100,000.

        Raises:
            BankError: the bank has fewer than 30 users, or the mean of its training is not known.
            ConfigurationError: the rank is below 1.
        """
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ConfigurationError(f"rank must be a whole number >= 1, got {rank!r}")
        if len(bank) < LEAST_USERS:
            raise BankError(
                f"the bank has {len(bank)} users; a distribution needs {LEAST_USERS}, since that of fewer tells too "
                "much of each of them"
            )
        rows = np.arange(len(bank))
        if len(bank) > _MOST_USERS:
            rows = np.sort(np.random.default_rng(seed).choice(len(bank), _MOST_USERS, replace=False))
        prompts = bank.prompts_at(rows).reshape(len(rows), -1)
        if privacy is not None:
            return cls._private(bank, prompts, rank, privacy)
        fewest = min(rank, len(rows) - 1, prompts.shape[1])
        solver = "covariance_eigh" if len(rows) > prompts.shape[1] else "full"
        found = PCA(fewest, svd_solver=solver).fit(prompts)
        noise = max(float(found.noise_variance_), 0.0)
        scales = np.sqrt(np.maximum(found.explained_variance_ - noise, 0.0))
        provenance = replace(bank.provenance, trained_rows=None)
        return cls(provenance, (scales[:, None] * found.components_).astype(np.float32), noise, len(rows), bank.head)

    @classmethod
    def _private(cls, bank: PromptBank, prompts: np.ndarray, rank: int, privacy: PrivacyBudget) -> PromptDistribution:
        """The same around the mean that the bank records, with noise that nobody can draw again."""
        known = bank.statistics
        if known is None:
            raise BankError("a distribution needs the mean of its bank's training, and the provenance has none")
        offsets = prompts - known.mean.reshape(1, -1)
        length = known.spread * math.sqrt(offsets.shape[1])
        factors, rest = private_factors(offsets, length, rank, privacy, np.random.default_rng())
        details = {**bank.provenance.details, PRIVACY: privacy.to_dict()}
        provenance = replace(bank.provenance, trained_rows=None, details=details)
        return cls(provenance, factors, rest, len(prompts), bank.head)

    def sample(self, users: int, *, seed: int = 42) -> PromptBank:
        """A bank of ``users`` prompts drawn from the Gaussian; the same seed gives the same prompts.

        Its statistics are those of the bank it stands for, so an adapter trained on it counts as trained on that bank.

        Raises:
            ConfigurationError: ``users`` is below 1.
        """
        if isinstance(users, bool) or not isinstance(users, int) or users < 1:
            raise ConfigurationError(f"the number of users to draw must be a whole number >= 1, got {users!r}")
        statistics = self.provenance.statistics
        assert statistics is not None  # checked when it was made
        generator = np.random.default_rng(seed)
        own = generator.standard_normal((users, len(self.factors)), np.float32) @ self.factors
        own += np.float32(self.noise_variance**0.5) * generator.standard_normal((users, own.shape[1]), np.float32)
        prompts = statistics.mean + own.reshape(users, *statistics.mean.shape)
        facts = replace(
            self.provenance,
            made_by=_OURS,
            details={**self.provenance.details, "distribution_of": self.users},
            history=(*self.provenance.history, self.provenance.as_step()),
        )
        names = [f"{_OURS}-{number:07d}" for number in range(users)]
        fields = {
            name: getattr(facts, name) for name in ("template", "task", "made_by", "details", "history", "owners")
        }
        return PromptBank.from_arrays(names, prompts, facts.model, head=self.head, statistics=statistics, **fields)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        tensors = {"factors": np.ascontiguousarray(self.factors)}
        if self.head is not None:
            tensors |= {_HEAD + name: tensor.numpy() for name, tensor in self.head.state_dict().items()}
        facts = {"noise_variance": self.noise_variance, "users": self.users, "provenance": self.provenance.to_dict()}
        with new_file(file) as path:
            save_file(tensors, path, metadata={_KEY: json.dumps(facts)})

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> PromptDistribution:
        """Read what :meth:`save` wrote.

        Raises:
            StorageError: there is no such file, or it is another one.
            CheckpointError: it is damaged.
        """
        if not Path(file).is_file():
            raise StorageError(f"no distribution at {file}; make one with puma-hub distribution")
        try:
            with safe_open(file, framework="np") as opened:
                text = (opened.metadata() or {}).get(_KEY)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is no safetensors file, or damaged: {first_line(error)}; make it again"
            ) from error
        if text is None:
            raise StorageError(f"{file} holds other tensors than a distribution of prompts; give another file")
        try:
            return _of_file(json.loads(text), tensors)
        except BankError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
            raise CheckpointError(
                f"the distribution in {file} is malformed: {first_line(error)}; make it again"
            ) from error


def _of_file(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> PromptDistribution:
    import torch

    provenance = Provenance.from_dict(facts["provenance"])
    weights = {n.removeprefix(_HEAD): torch.from_numpy(t) for n, t in tensors.items() if n.startswith(_HEAD)}
    head = None
    if weights:
        head = RatingHead(provenance.answers)
        head.load_state_dict(weights)
    noise = require_number(facts["noise_variance"], "noise_variance")
    users, factors = require_whole(facts["users"], "users", MAX_USERS), tensors["factors"]
    if factors.dtype != np.float32:
        raise CheckpointError(f"the factors must be float32, got {factors.dtype}")
    return PromptDistribution(provenance, factors, noise, users, head)
