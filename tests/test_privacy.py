"""Distributions of prompts under differential privacy: the noise, what is left, and what is said of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from puma_hub import PromptBank
from puma_hub.bank.distribution import PromptDistribution
from puma_hub.bank.privacy import PrivacyBudget, private_factors
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError
from tests.trainings import make_training


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-6)])
def test_the_noise_is_the_least_that_keeps_the_promise(epsilon: float, delta: float) -> None:
    """By numerical integration: how much likelier than e^epsilon allows any result is, summed over results."""

    def excess(deviation: float) -> float:
        points = np.linspace(-12 * deviation - 2, 12 * deviation + 2, 400_001)
        gap = norm.pdf(points, 1.0, deviation) - math.exp(epsilon) * norm.pdf(points, 0.0, deviation)
        return float(np.trapezoid(np.maximum(gap, 0.0), points))

    noise = PrivacyBudget(epsilon, delta).noise
    assert excess(noise) == pytest.approx(delta, rel=1e-3)
    assert excess(0.98 * noise) > delta


def offsets_of(users: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(users, 2)) @ generator.normal(size=(2, 24)) + 0.1 * generator.normal(size=(users, 24))
    return own / np.sqrt(np.square(own).sum(1).mean())


def test_many_users_keep_their_directions_and_few_lose_them() -> None:
    many, budget = offsets_of(200_000), PrivacyBudget(1.0, clip=3.0)
    factors, rest = private_factors(many, 1.0, 8, budget, np.random.default_rng(1))
    true = many.T @ many / len(many)
    assert np.linalg.norm(factors.T @ factors + rest * np.eye(24) - true) < 0.05 * np.linalg.norm(true)
    assert len(factors) == 2
    few, left = private_factors(offsets_of(60), 1.0, 8, budget, np.random.default_rng(1))
    assert len(few) <= 1 and left >= 0


def test_one_user_changes_the_sum_by_no_more_than_the_noise_hides() -> None:
    """With the same noise, the result differs by less than the longest offset allows, however long the user's is."""
    offsets, budget = offsets_of(5_000), PrivacyBudget(1.0)
    offsets[0] *= 1e6
    without = np.vstack([0 * offsets[:1], offsets[1:]])
    alike = [private_factors(one, 1.0, 24, budget, np.random.default_rng(2)) for one in (offsets, without)]
    sums = [factors.T @ factors + rest * np.eye(24) for factors, rest in alike]
    assert 0 < np.linalg.norm(sums[0] - sums[1]) <= 2.0 / 5_000


def test_a_private_distribution_says_so_and_is_never_the_same(tmp_path: Path) -> None:
    bank = make_training(1, users=2_000)
    budget = PrivacyBudget(2.0)
    first, second = (PromptDistribution.of(bank, privacy=budget) for _ in range(2))
    assert first.provenance.details["privacy"] == {"epsilon": 2.0, "delta": 1e-6, "clip": 1.0}
    assert not np.array_equal(first.factors, second.factors)
    bank.save_pretrained(tmp_path / "bank")
    report, out = tmp_path / "report.json", tmp_path / "prompts.safetensors"
    given = ["distribution", "--bank", str(tmp_path / "bank"), "--out", str(out), "--json", str(report)]
    assert main([*given, "--epsilon", "2"]) == 0
    assert json.loads(report.read_text())["privacy"]["epsilon"] == 2.0
    again = PromptDistribution.load(out)
    assert again.provenance.details["privacy"]["delta"] == 1e-6
    sampled = again.sample(500)
    assert isinstance(sampled, PromptBank) and np.isfinite(sampled.prompts).all()
    assert sampled.provenance.details["privacy"]["epsilon"] == 2.0


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0}, {"epsilon": True}, {"epsilon": 1.0, "delta": 1.0}, {"epsilon": 1, "clip": -1}]
)
def test_what_promises_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"{list(wrong)[-1]} must lie between 0 and"):
        PrivacyBudget(**wrong)
