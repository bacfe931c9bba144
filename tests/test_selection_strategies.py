"""What every strategy promises: exact budgets whatever the data, distinct users, the same ones for the same seed."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest

from puma_hub import ModelSpec, PersonalizedLM, PromptBank, select_users
from puma_hub.errors import ConfigurationError, SelectionError
from puma_hub.extensions import STRATEGIES
from puma_hub.selection.draws import draw_at_random, farthest_points
from puma_hub.selection.features import principal_components
from tests.conftest import make_model, make_tokenizer

SIZE = 32
WITHOUT_CHANCE = ("d-optimal", "v-optimal")
KINDS = ("plain", "identical", "one big cluster", "one row", "equal", "two tokens", "far from 0")
CONTRACT = (
    *("random", "variance", "loss", "kmeans", "kmeans-pca", "kmeans-fps", "kmeans-loss", "puma", "puma-seed"),
    *("ffn-kmeans", "ffn-loss", "ffn-variance"),
)


@pytest.fixture(scope="module")
def lm() -> PersonalizedLM:
    return PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")


def make(users: int, kind: str, spec: ModelSpec) -> tuple[PromptBank, datasets.Dataset]:
    generator = np.random.default_rng(users)
    prompts = generator.normal(size=(users, 2 if kind == "two tokens" else 1, SIZE))
    if kind == "identical":
        prompts[:] = 1.0
    if kind == "one big cluster":
        prompts[: max(1, users // 20)] += 100
    if kind == "far from 0":
        prompts += 1e4
    names = [f"u{user}" for user in range(users)]
    owners = [name for name in names for _ in range(1 if kind == "one row" else 5)]
    labels = np.full(len(owners), 3.0) if kind == "equal" else generator.integers(1, 6, len(owners)).astype(float)
    texts = ["x"] * len(owners)
    rows = datasets.Dataset.from_dict({"user_id": owners, "item_id": texts, "item_text": texts, "label": labels})
    return PromptBank.from_arrays(names, prompts, spec), rows


def options(strategy: str, bank: PromptBank, lm: PersonalizedLM) -> dict[str, Any]:
    losses = np.random.default_rng(1).random(len(bank))
    return {
        **({"lm": lm} if strategy.startswith("ffn") else {}),
        **({"losses": dict(zip(bank.user_ids, losses.tolist()))} if strategy.endswith("loss") else {}),
    }


def test_all_of_the_contract_is_registered() -> None:
    assert set(CONTRACT) <= set(STRATEGIES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exact_budget(strategy: str, kind: str, lm: PersonalizedLM) -> None:
    bank, rows = make(200, kind, lm.spec)
    asked = options(strategy, bank, lm)
    for budget in (1, 7, 49, 199, 200, 5000):
        chosen = select_users(bank, rows, strategy, budget, seed=3, **asked)
        assert len(chosen) == len(set(chosen)) == min(budget, 200)
        assert set(chosen) <= set(bank.user_ids)
        if budget in (7, 199):
            assert chosen == select_users(bank, rows, strategy, budget, seed=3, **asked)


@pytest.mark.parametrize("users", [1, 2, 10])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fewer_users_than_clusters(strategy: str, users: int, lm: PersonalizedLM) -> None:
    bank, rows = make(users, "plain", lm.spec)
    for budget in (1, users):
        assert len(set(select_users(bank, rows, strategy, budget, **options(strategy, bank, lm)))) == budget


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seed_matters(strategy: str, lm: PersonalizedLM) -> None:
    bank, rows = make(200, "plain", lm.spec)
    asked = options(strategy, bank, lm)
    first, second = (select_users(bank, rows, strategy, 40, seed=seed, **asked) for seed in (1, 2))
    assert (first == second) == (strategy in WITHOUT_CHANCE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_users_without_rows(strategy: str, lm: PersonalizedLM) -> None:
    bank, rows = make(30, "plain", lm.spec)
    some = rows.filter(lambda row: row["user_id"] < "u2")
    asked = options(strategy, bank, lm)
    if "losses" in asked:
        asked["losses"].pop("u29")
    assert len(set(select_users(bank, some, strategy, 30, **asked))) == 30


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if "loss" in name or name.startswith("ffn")])
def test_no_llm_and_nothing_in_its_stead(strategy: str, lm: PersonalizedLM) -> None:
    bank, rows = make(5, "plain", lm.spec)
    with pytest.raises(ConfigurationError, match=r"goes by the source LLM's .*: give lm=.*--model"):
        select_users(bank, rows, strategy, 2)
    with pytest.raises(ConfigurationError, match="got str"):
        select_users(bank, rows, strategy, 2, lm="tiny")


@pytest.mark.parametrize(
    ("strategy", "given", "said"),
    [
        ("kmeans", {"clusters": 0}, "clusters must be a whole number >= 1"),
        ("kmeans-fps", {"clusters": 2.5}, "clusters must be a whole number >= 1"),
        ("kmeans-pca", {"components": 0}, "components must be a whole number >= 1"),
        ("d-optimal", {"noise": 0}, "noise must be a number above 0, got 0"),
        ("v-optimal", {"noise": float("nan")}, "noise must be a number above 0, got nan"),
        ("loss", {"losses": [1.0]}, "losses must map user ids to numbers, got list"),
        ("loss", {"losses": {"u0": float("inf")}}, "1 of 1 losses are NaN or infinite"),
        ("random", {"clusters": 3}, "'random' has no option 'clusters'; it has no options"),
    ],
)
def test_bad_options(strategy: str, given: dict[str, Any], said: str, lm: PersonalizedLM) -> None:
    bank, rows = make(5, "plain", lm.spec)
    with pytest.raises(ConfigurationError, match=said):
        select_users(bank, rows, strategy, 2, **given)


def test_losses_of_nobody(lm: PersonalizedLM) -> None:
    bank, rows = make(5, "plain", lm.spec)
    with pytest.raises(SelectionError, match="none of the bank's users is among the 1 users of losses"):
        select_users(bank, rows, "loss", 2, losses={"z": 1.0})
    with pytest.raises(ConfigurationError, match="both given"):
        select_users(bank, rows, "loss", 2, losses={"u0": 1.0}, lm=lm)


def test_strata_of_loss_weigh_the_middle(lm: PersonalizedLM) -> None:
    bank, rows = make(200, "plain", lm.spec)
    losses = {user: float(number) for number, user in enumerate(bank.user_ids)}
    chosen = select_users(bank, rows, "loss", 50, losses=losses)
    weights = np.exp(-(np.linspace(-2, 2, 5) ** 2) / 2) + 0.1
    counts = np.bincount([int(losses[user]) // 40 for user in chosen], minlength=5)
    assert np.abs(counts - 50 * weights / weights.sum()).max() <= 1


def test_clusters_get_their_share(lm: PersonalizedLM) -> None:
    generator = np.random.default_rng(0)
    of = np.repeat([0, 1, 2], (1000, 100, 30))
    prompts = generator.normal(size=(3, SIZE))[of] * 30 + generator.normal(size=(len(of), SIZE))
    bank = PromptBank.from_arrays([f"u{row}" for row in range(len(of))], prompts[:, None], lm.spec)
    rows = make(1, "plain", lm.spec)[1]
    for strategy in ("kmeans", "kmeans-pca", "kmeans-fps"):
        chosen = select_users(bank, rows, strategy, 500, clusters=3)
        # 50 of each cluster first (all 30 of the smallest), the rest in proportion to its size.
        assert np.bincount(of[bank.rows(chosen)]).tolist() == [386, 84, 30]


def test_farthest_points_by_hand() -> None:
    points = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32) + 1000
    members = np.arange(10, 50)
    found = farthest_points(points, members, 12, np.random.default_rng(7))
    expected = [int(found[0])]
    while len(expected) < 12:
        gaps = {row: min(np.linalg.norm(points[row] - points[other]) for other in expected) for row in members}
        expected.append(max(gaps, key=gaps.__getitem__))
    assert found.tolist() == expected and found[0] in members
    same = farthest_points(np.ones((9, 3), np.float32), np.arange(9), 9, np.random.default_rng(0))
    assert sorted(same.tolist()) == list(range(9))
    assert not len(farthest_points(points, members[:0], 3, np.random.default_rng(0)))


def test_farthest_points_spread_wider_than_drawn_ones() -> None:
    points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)

    def cover(chosen: np.ndarray) -> float:
        return float(np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1).max())

    members = np.arange(300)
    drawn = min(cover(draw_at_random(members, 20, np.random.default_rng(seed))) for seed in range(5))
    assert cover(farthest_points(points, members, 20, np.random.default_rng(0))) < drawn


def test_principal_components_by_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    features = (generator.normal(size=(80, 3)) @ generator.normal(size=(3, 10)) + 1000).astype(np.float32)
    found = principal_components(features, 3, seed=0)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(found), np.abs(left[:, :3] * sizes[:3]), atol=1e-2)
    assert principal_components(features, 64, seed=0).shape == (80, 10)
    assert not principal_components(np.ones((5, 4), np.float32), 2, seed=0).any()
    monkeypatch.setattr("puma_hub.selection.features.FIT_USERS", 40)
    fewer = principal_components(features, 3, seed=0)
    gaps = [np.linalg.norm(points[:, None] - points, axis=2) for points in (fewer, found)]
    assert np.allclose(*gaps, atol=1e-2)  # the plane of all is that of some
