"""``cold_start``: prompts on the target LLM for users who have none, from nothing, attributes, or a few rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from sklearn.cluster import KMeans

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.distribution import LEAST_USERS, PromptDistribution
from puma_hub.bank.fit import require_owners, require_scorer
from puma_hub.bank.users import require_distinct, user_list
from puma_hub.data import check_interactions, of_users
from puma_hub.errors import BankError, ConfigurationError, InteractionsError
from puma_hub.migration import migrate
from puma_hub.newcomers.attributes import prompts_of_alike
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks.owners import USERS
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.posterior import PosteriorSolver, Prior, gradient_step, recorded_noise

MADE_BY = "cold start"
_LEAST_REST = 1e-6  # of the mean variance, in directions that no factor spans: the covariance has to be invertible


@dataclass(frozen=True)
class GaussianPrior:
    """The covariance of a bank's prompts, in embedding RMS: ``factors^T factors + rest * identity``."""

    factors: np.ndarray
    rest: float

    def times(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`puma_hub.training.posterior.Prior`."""
        product: np.ndarray = (gradients @ self.factors.T) @ self.factors + self.rest * gradients
        return product

    def squares(self, offsets: np.ndarray) -> np.ndarray:
        """See :class:`puma_hub.training.posterior.Prior`; by the Woodbury identity."""
        along = offsets @ self.factors.T
        inner = np.eye(len(self.factors)) + self.factors @ self.factors.T / self.rest
        shared = (along * np.linalg.solve(inner, along.T).T).sum(1) / self.rest
        squares: np.ndarray = (np.square(offsets).sum(1) - shared) / self.rest
        return squares


def cold_start(
    adapter: PumaAdapter,
    bank: PromptBank,
    user_ids: Sequence[str],
    interactions: datasets.Dataset | None = None,
    *,
    lm: PersonalizedLM | None = None,
    attributes: datasets.Dataset | None = None,
    neighbours: int = 10,
    centroids: int = 8,
    steps: int = 2,
    gradient_steps: int = 0,
    batch_size: int = 128,
    seed: int = 42,
) -> PromptBank:
    """First prompts on the adapter's target LLM for users who are in no bank.

    Users without rows get the mean prompt of the bank's users or, with ``attributes``, that of the users who are most
    like them. Users with rows get the mean of a Gaussian posterior: the prior is the distribution of the bank's prompts
    around that first prompt, and the rows' predictions are taken to be linear in the prompt. They are linearised at
    the likeliest of the centroids of the bank's prompts, and then where the posterior's mean is.

    Args:
        bank: a bank of the adapter's source LLM, which is migrated first, or of its target LLM. Of several sources,
            one of the target LLM.
        user_ids: the users; those who are in the bank are refused.
        interactions: their rows, if there are any; ``lm``, the target's scorer, is needed with them.
        attributes: ``user_id`` and columns that the bank's data set has too, a row for each user.
        neighbours: how many users who are alike are averaged.
        centroids: of k-means on the bank's prompts.
        steps: of the posterior.
        gradient_steps: of the log posterior after these, for rows whose predictions are far from linear.
        seed: of k-means.

    Returns:
        A bank of ``user_ids`` in that order; its details count the users with rows.

    Raises:
        BankError: the bank has fewer than 30 users, or has some of ``user_ids``.
        MismatchError: bank or scorer are of other LLMs than the adapter, or of another task or template.
        ConfigurationError: interactions come without ``lm``.
        InteractionsError: rows or attributes are malformed.
    """
    users = user_list(user_ids)
    require_distinct(users)
    require_owners(bank, USERS, "cold start")
    target = _on_target(adapter, bank)
    _require_new(users, target)
    mean = target.prompts.mean(0, dtype=np.float64).astype(np.float32)
    first = np.repeat(mean[None], len(users), 0)
    if attributes is not None:
        first = prompts_of_alike(bank.dataset, target.prompts, attributes, users, neighbours)  # in the bank's order
    prompts, with_rows = first, 0
    if interactions is not None:
        if lm is None:
            raise ConfigurationError("users' rows are read by the target LLM; give its scorer as lm=")
        require_scorer(target, lm, "cold start")
        posterior = _Posterior(target, lm, mean, centroids, steps, gradient_steps, batch_size, seed)
        prompts, with_rows = posterior.prompts(users, interactions, first)
    return _bank(users, prompts, target, with_rows)


def _require_new(users: list[str], target: PromptBank) -> None:
    """Refuse users whom the bank has, and a bank that is too small to say what prompts are like.

    Raises:
        BankError: it is.
    """
    known = sum(user in target for user in users)
    if known:
        raise BankError(f"{known} of {len(users)} users are in the bank already; migrate their prompts instead")
    if len(target) < LEAST_USERS:
        raise BankError(f"the bank has {len(target)} users; what prompts are like needs {LEAST_USERS} or more")


def _bank(users: list[str], prompts: np.ndarray, target: PromptBank, with_rows: int) -> PromptBank:
    """First prompts as a bank beside ``target``, with how many of the users have rows."""
    facts = target.provenance
    details = {**facts.details, "users_with_rows": with_rows, "users_without_rows": len(users) - with_rows}
    return PromptBank.from_arrays(
        users,
        prompts,
        facts.model,
        head=target.head,
        template=facts.template,
        task=facts.task,
        made_by=MADE_BY,
        details=details,
        history=(*facts.history, facts.as_step()),
        statistics=facts.statistics,
    )


def _on_target(adapter: PumaAdapter, bank: PromptBank) -> PromptBank:
    """The bank on the adapter's target LLM, migrated if it is one of the source LLM."""
    pair = adapter.config.require_pair()
    if pair.is_same(bank.model):
        return bank
    return migrate(adapter, bank)


@dataclass(frozen=True)
class _Posterior:
    """The posterior of users' prompts by their rows, with the bank's prompts as prior."""

    bank: PromptBank
    lm: PersonalizedLM
    mean: np.ndarray
    centroids: int
    steps: int
    gradient_steps: int
    batch_size: int
    seed: int

    def prompts(self, users: list[str], interactions: datasets.Dataset, first: np.ndarray) -> tuple[np.ndarray, int]:
        """Prompts ``(n, l, d)`` of ``users``, those without rows as in ``first``, and how many have rows."""
        rows = of_users(check_interactions(interactions, self.lm.task), users)
        if not len(rows):
            raise InteractionsError(f"none of the {len(interactions)} rows belongs to one of the {len(users)} users")
        encoded = EncodedInteractions.build(
            self.lm, rows, {user: row for row, user in enumerate(users)}, self.bank.shape[0]
        )
        head = copy.deepcopy(self.bank.head).to(self.lm.device) if self.bank.head is not None else None
        scale = self.lm.embedding_rms
        solver = PosteriorSolver(self.lm, torch.from_numpy(self.mean.copy()), head, scale, self.batch_size)
        means = ((first - self.mean) / scale).reshape(len(users), -1).astype(np.float64)
        found = PromptDistribution.of(self.bank)
        factors = found.factors.astype(np.float64) / scale
        rest = max(found.noise_variance / scale**2, _LEAST_REST * float(np.square(factors).sum()) / factors.shape[1])
        prior = GaussianPrior(factors, rest)
        noise = recorded_noise(self.bank) or solver.noise(encoded, means)
        begin = self._likeliest_start(solver, encoded, prior, noise, means)
        given = encoded, prior, noise, len(users)
        offsets = solver.solve(*given, self.steps, means=means, begin=begin)
        if self.gradient_steps:
            offsets = solver.solve(
                *given, self.gradient_steps, means=means, begin=offsets.astype(np.float64), towards=gradient_step
            )
        present = np.unique(encoded.users.numpy())
        prompts = first.copy()
        prompts[present] = self.mean + scale * offsets[present].reshape(len(present), *self.mean.shape)
        return prompts, len(present)

    def _likeliest_start(
        self, solver: PosteriorSolver, rows: EncodedInteractions, prior: Prior, noise: float, means: np.ndarray
    ) -> np.ndarray:
        """Of each user the first prompt, or the centroid that is likelier by the rows, as offsets ``(n, l * d)``."""
        flat = (self.bank.prompts - self.mean).reshape(len(self.bank), -1) / solver.scale
        clusters = KMeans(min(self.centroids, len(flat)), n_init=4, random_state=self.seed).fit(flat)
        best, least = means.copy(), solver.squares(rows, means) / noise
        for center in clusters.cluster_centers_.astype(np.float64):
            all_there = np.repeat(center[None], len(means), 0)
            loss = solver.squares(rows, all_there) / noise + prior.squares(all_there - means)
            better = loss < least
            best[better], least[better] = center, loss[better]
        return best
