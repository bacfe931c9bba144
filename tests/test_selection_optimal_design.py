"""``d-optimal`` and ``v-optimal`` against determinants and inverses of all candidates, computed anew each time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank, select_users
from puma_hub.selection.optimal_design import MeanVariance, Posterior, design_points, greedy
from tests.conftest import make_interactions

Score = Callable[[np.ndarray, np.ndarray, float], float]


def information(points: np.ndarray, chosen: np.ndarray, noise: float) -> float:
    """``log det(1 + sum x x^T / noise^2)``."""
    seen = points[chosen]
    return float(np.linalg.slogdet(np.eye(points.shape[1]) + seen.T @ seen / noise**2)[1])


def certainty(points: np.ndarray, chosen: np.ndarray, noise: float) -> float:
    """Minus the mean posterior variance over all users."""
    seen = points[chosen]
    covariance = np.linalg.inv(np.eye(points.shape[1]) + seen.T @ seen / noise**2)
    return -float(np.einsum("ij,jk,ik->i", points, covariance, points).mean())


def by_hand(points: np.ndarray, budget: int, noise: float, score: Score) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < budget:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(max(left, key=lambda row: score(points, np.array([*chosen, row]), noise)))
    return chosen


def points_of(users: int, size: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(users, size)) * np.linspace(1, 0.2, size)


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("design", "score"), [(Posterior, information), (MeanVariance, certainty)])
def test_greedy_by_hand(design: type[Posterior], score: Score, seed: int, noise: float) -> None:
    points = points_of(25, 4, seed)
    assert greedy(design(points, noise), 10).tolist() == by_hand(points, 10, noise, score)


@pytest.mark.parametrize("design", [Posterior, MeanVariance])
def test_the_state_after_many_observations(design: type[Posterior]) -> None:
    points = points_of(300, 20, 0)
    state = design(points, 0.3)
    for row in range(250):
        state.observe(row)
    seen = points[:250]
    covariance = np.linalg.inv(np.eye(20) + seen.T @ seen / 0.3**2)
    assert np.allclose(state.covariance, covariance, atol=1e-8)
    assert np.allclose(state.variances, np.einsum("ij,jk,ik->i", points, covariance, points), rtol=1e-6)
    if isinstance(state, MeanVariance):
        shared = covariance @ (points.T @ points / 300) @ covariance
        assert np.allclose(state.shared, np.einsum("ij,jk,ik->i", points, shared, points), rtol=1e-6)


def test_greedy_information_is_near_the_best_there_is() -> None:
    """Nemhauser, Wolsey and Fisher (1978): at least 1 - 1/e of the best, as information is submodular."""
    for seed in range(5):
        points = points_of(12, 3, seed)
        best = max(information(points, np.array(rows), 0.5) for rows in combinations(range(12), 4))
        found = information(points, greedy(Posterior(points, 0.5), 4), 0.5)
        assert (1 - 1 / np.e) * best <= found <= best + 1e-9


@pytest.mark.parametrize(("strategy", "score"), [("d-optimal", information), ("v-optimal", certainty)])
def test_users_by_their_prompts(strategy: str, score: Score) -> None:
    prompts = points_of(40, 12, 3).reshape(40, 2, 6) + 100
    bank = PromptBank.from_arrays([f"user-{row}" for row in range(40)], prompts, ModelSpec("m", 6))
    offsets = bank.prompts.reshape(40, -1).astype(np.float64)
    offsets -= offsets.mean(axis=0)
    offsets /= np.sqrt(np.square(offsets).sum(axis=1).mean())
    chosen = select_users(bank, make_interactions(40, 1), strategy, 15, noise=0.5)
    assert bank.rows(chosen) == by_hand(offsets, 15, 0.5, score)
    assert chosen == select_users(bank, make_interactions(40, 1), strategy, 15, seed=7, noise=0.5)


def test_few_users_are_chosen_in_few_directions() -> None:
    prompts = points_of(50, 30, 0)[:, None]
    bank = PromptBank.from_arrays([f"user-{row}" for row in range(50)], prompts, ModelSpec("m", 30))
    assert design_points(bank, 5).shape == (50, 5) and design_points(bank, 2000).shape == (50, 30)
    assert np.square(design_points(bank, 5)).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
