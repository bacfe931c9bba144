"""The parts of a selection: strata, quotas, clusters, label variance; and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank, select_users
from puma_hub.errors import ConfigurationError, SelectionError
from puma_hub.selection.clusters import cluster
from puma_hub.selection.label_variance import label_variance
from puma_hub.selection.quotas import divide, quantile_bins
from puma_hub.selection.strata import PAPER, SEED, StratifiedPreset, cluster_budgets, stratified


def make(users: int) -> tuple[PromptBank, datasets.Dataset]:
    generator = np.random.default_rng(users)
    names = [f"u{user}" for user in range(users)]
    bank = PromptBank.from_arrays(names, generator.normal(size=(users, 1, 6)), ModelSpec("m", 6))
    owners = [name for name in names for _ in range(5)]
    labels = generator.integers(1, 6, len(owners)).astype(float)
    texts = ["x"] * len(owners)
    rows = {"user_id": owners, "item_id": texts, "item_text": texts, "label": labels}
    return bank, datasets.Dataset.from_dict(rows)


def test_users_without_rows_can_still_be_chosen() -> None:
    bank, rows = make(30)
    some = rows.filter(lambda row: row["user_id"] < "u2")
    assert len(select_users(bank, some, "puma", 30)) == 30


def test_among_some_users_drawn_at_random() -> None:
    bank, rows = make(4000)
    for strategy in ("puma", "random", "d-optimal"):
        chosen = select_users(bank, rows, strategy, 40, seed=3, among=400)
        assert len(set(chosen)) == 40 and chosen == select_users(bank, rows, strategy, 40, seed=3, among=400)
        assert chosen != select_users(bank, rows, strategy, 40, seed=4, among=400)
    assert select_users(bank, rows, "puma", 40, among=4000) == select_users(bank, rows, "puma", 40)
    # All of those drawn: how many of them are among the first quarter of users has the stated error.
    shares = [
        np.mean([int(user[1:]) < 1000 for user in select_users(bank, rows, "random", 400, seed=seed, among=400)])
        for seed in range(60)
    ]
    stated = np.sqrt(0.25 * 0.75 / 400)
    assert abs(np.mean(shares) - 0.25) < 4 * stated / np.sqrt(60) and 0.6 * stated < np.std(shares) < 1.3 * stated
    for among in (39, 0, True, 1e6):
        with pytest.raises(SelectionError, match="40 users are to be chosen among"):
            select_users(bank, rows, "puma", 40, among=among)


def test_prompts_that_do_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, rows = make(1000)
    bank.save_pretrained(tmp_path / "bank")
    stored = PromptBank.from_pretrained(tmp_path / "bank")
    memory = SimpleNamespace(available=20_000)  # bytes; all prompts take 24,000
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    for strategy in ("puma", "kmeans-pca", "d-optimal"):
        with pytest.raises(SelectionError, match="--among 1000000"):
            select_users(stored, rows, strategy, 40)
        assert len(select_users(stored, rows, strategy, 40, among=500)) == 40
    assert len(select_users(stored, rows, "random", 40)) == len(select_users(bank, rows, "puma", 40)) == 40


def test_label_variance_by_hand() -> None:
    bank, rows = make(30)
    shuffled = rows.shuffle(seed=1).filter(lambda row: row["user_id"] != "u7")
    frame = shuffled.to_pandas().groupby("user_id").label.var(ddof=0)
    assert np.allclose(label_variance(bank, shuffled), [frame.get(user, 0.0) for user in bank.user_ids])
    others = bank.remove(["u3"]).select([*reversed(bank.remove(["u3"]).user_ids)])  # rows of a user it does not hold
    assert np.allclose(label_variance(others, shuffled), [frame.get(user, 0.0) for user in others.user_ids])


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
    bank, rows = make(5)
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


def test_many_users_are_clustered_by_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = np.random.default_rng(0).normal(size=(4, 6)) * 20
    of = np.random.default_rng(1).integers(0, 4, 500)
    points = (centres[of] + np.random.default_rng(2).normal(size=(500, 6))).astype(np.float32)
    monkeypatch.setattr("puma_hub.selection.clusters.MOST_FOR_KMEANS", 499)
    monkeypatch.setattr("puma_hub.selection.clusters.KMeans", None)
    found = cluster(points, 4, 0)
    assert len({*zip(of.tolist(), found.tolist())}) == 4  # the same parts under other numbers
    assert np.array_equal(found, cluster(points, 4, 0))
