"""Selection: exact budgets whatever the data, the paper's strata, determinism."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank, select_users
from puma_hub.errors import ConfigurationError, SelectionError
from puma_hub.extensions import STRATEGIES
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.quotas import divide, quantile_bins
from puma_hub.selection.strata import PAPER, SEED, StratifiedPreset, cluster, cluster_budgets, stratified


def make(users: int, kind: str) -> tuple[PromptBank, datasets.Dataset]:
    generator = np.random.default_rng(users)
    prompts = generator.normal(size=(users, 1, 6))
    if kind == "identical":
        prompts[:] = 1.0
    if kind == "one big cluster":
        prompts[: max(1, users // 20)] += 100
    data: dict[str, list[object]] = {name: [] for name in ("user_id", "item_id", "item_text", "label")}
    for user in range(users):
        for _ in range(1 if kind == "one row" else 5):
            data["user_id"].append(f"u{user}")
            data["item_id"].append("x")
            data["item_text"].append("X")
            data["label"].append(3.0 if kind == "equal" else float(generator.integers(1, 6)))
    return PromptBank.from_arrays(
        [f"u{i}" for i in range(users)], prompts, ModelSpec("m", 6)
    ), datasets.Dataset.from_dict(data)


@pytest.mark.parametrize("budget", [1, 7, 49, 199, 200, 5000])
@pytest.mark.parametrize("kind", ["plain", "identical", "one big cluster", "one row", "equal"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exact_budget(strategy: str, kind: str, budget: int) -> None:
    bank, rows = make(200, kind)
    chosen = select_users(bank, rows, strategy, budget, seed=3)
    assert len(chosen) == len(set(chosen)) == min(budget, 200)
    assert set(chosen) <= set(bank.user_ids)
    assert chosen == select_users(bank, rows, strategy, budget, seed=3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seed_matters(strategy: str) -> None:
    bank, rows = make(200, "plain")
    assert select_users(bank, rows, strategy, 40, seed=1) != select_users(bank, rows, strategy, 40, seed=2)


def test_users_without_rows_can_still_be_chosen() -> None:
    bank, rows = make(30, "plain")
    some = rows.filter(lambda row: row["user_id"] < "u2")
    assert len(select_users(bank, some, "puma", 30)) == 30


def test_label_variance_by_hand() -> None:
    bank, rows = make(30, "plain")
    frame = rows.to_pandas().groupby("user_id").label.var(ddof=0)
    assert np.allclose(label_variance(bank, rows), [frame[user] for user in bank.user_ids])


def test_paper_sizes() -> None:
    x = np.linspace(-2, 2, 5)
    assert np.allclose(PAPER.weights, np.exp(-(x**2) / 2) + 0.1)
    assert (PAPER.clusters, PAPER.at_least, SEED.clusters, SEED.weights) == (15, 50, 50, (1.0, 2.0, 1.0))
    sizes = np.array([1000, 100, 30])
    assert cluster_budgets(sizes, 500, PAPER).tolist() == [50 + 336, 50 + 34, 30]  # 370 left, 1000 : 100


def test_middle_strata_get_more() -> None:
    values = np.arange(1000.0)
    chosen = stratified(np.zeros(1000, int), values, 200, StratifiedPreset(1, PAPER.weights, 50), seed=0)
    counts = np.bincount(quantile_bins(values, 5)[chosen], minlength=5)
    share = np.array(PAPER.weights) / sum(PAPER.weights)
    assert np.abs(counts - 200 * share).max() <= 1 and counts.argmax() == 2


@pytest.mark.parametrize("seed", range(20))
def test_divide_is_exact_and_within_limits(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 20, 7)
    weights = generator.random(7) * (generator.random(7) > 0.3)
    for budget in (0, 1, 5, 40, 1000):
        parts = divide(budget, weights, sizes)
        assert parts.sum() == min(budget, sizes.sum()) and (parts <= sizes).all() and (parts >= 0).all()
    assert divide(10, [1, 2, 1], [100, 100, 100]).tolist() in ([3, 5, 2], [2, 5, 3])


def test_bad_calls() -> None:
    bank, rows = make(5, "plain")
    with pytest.raises(ConfigurationError, match="unknown strategy"):
        select_users(bank, rows, "best")
    for budget in (0, -1, 2.5, True):
        with pytest.raises(SelectionError, match="budget"):
            select_users(bank, rows, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="empty"):
        select_users(bank.select([]), rows)
    with pytest.raises(SelectionError, match="none of the bank's users"):
        select_users(PromptBank.from_arrays(["z"], np.ones((1, 1, 6)), ModelSpec("m", 6)), rows)


def test_clusters_without_sorting_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    few = generator.normal(size=(7, 6)).astype(np.float32)
    few[0] = 0.0
    repeated = few[generator.integers(0, 7, 300)]
    repeated[::2] = np.where(repeated[::2] == 0, -0.0, repeated[::2])  # the same number in other bits
    assert len(np.unique(cluster(repeated, 50, 0))) == len(np.unique(repeated, axis=0)) == 7
    many = generator.normal(size=(200, 6))
    monkeypatch.setattr(np, "unique", None)
    assert set(cluster(many, 5, 0)) == set(range(5))
