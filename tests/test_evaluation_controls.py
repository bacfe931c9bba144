"""Controls and comparisons: who gets whose prompt, and rows, users and classes that are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import datasets
import numpy as np
import pytest

from puma_hub import ClickTask, PersonalizedLM, PromptBank, RatingTask, compare_banks, evaluate_bank
from puma_hub.data import of_users
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError, UnknownUserError
from puma_hub.evaluation import baseline_predictions, controls
from puma_hub.evaluation.compare import derangement
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.tasks import RatingHead
from tests.conftest import make_interactions
from tests.test_evaluation import fitting_bank

CLICK = "<item> for <user>: "


def clicks_of(rows: datasets.Dataset, labels: list[float]) -> datasets.Dataset:
    return rows.remove_columns("label").add_column("label", labels)  # type: ignore[call-arg]


def test_nobody_keeps_the_own_prompt_and_all_such_orders_are_as_likely() -> None:
    for size in (2, 3, 7, 300):
        for seed in range(50):
            order = derangement(size, seed)
            assert sorted(order) == list(range(size)) and not (order == np.arange(size)).any()
    counts = Counter(tuple(derangement(4, seed).tolist()) for seed in range(1800))
    assert len(counts) == 9
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 26.1  # 8 degrees of freedom, one in a thousand


def test_two_users_change_prompts_whatever_the_seed(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    bank, pair = fitting_bank(lm, head), ["user-1", "user-2"]
    swapped = PromptBank.from_arrays(pair, bank.select(pair[::-1]).prompts, lm.spec, head=head)
    expected = evaluate_bank(lm, swapped, interactions)["metrics"]["rmse"]
    for seed in range(4):
        assert controls(lm, bank, interactions, pair, seed)["shuffled"] == pytest.approx(expected, rel=1e-5)
    alone = controls(lm, bank, interactions, ["user-1"])
    assert alone["shuffled"] is None and "at least two users" in alone["notes"][0]
    assert controls(lm, bank, interactions, [*pair, "user-1"], 3) == controls(lm, bank, interactions, pair, 3)
    with pytest.raises(UnknownUserError, match="1 of 2 users"):
        controls(lm, bank, interactions, ["user-1", "nobody"])
    without = of_users(interactions, ["user-5"])
    with pytest.raises(InteractionsError, match="none of the 12 rows belongs to one of the 2 users"):
        controls(lm, bank, without, pair)


def test_clicks_of_users_who_have_one_class_each(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(template=CLICK, task=ClickTask())
    rows = make_interactions()
    by_user = clicks_of(rows, [float(user < "user-4") for user in rows["user_id"]])
    report = evaluate_bank(lm, fitting_bank(lm), by_user)
    assert report["metrics"]["user_auc"] is None and report["counts"] == {"users_with_both_classes": 0}
    assert report["notes"] == ["user_auc is not defined: no user has rows of both classes"]
    found = controls(lm, fitting_bank(lm), by_user)
    assert found["metric"] == "auc" and found["own"] == pytest.approx(report["metrics"]["auc"])
    assert found["gain"] == pytest.approx(found["own"] - found["mean"])
    none = clicks_of(rows, [0.0] * len(rows))
    report = evaluate_bank(lm, fitting_bank(lm), none)
    assert report["metrics"]["auc"] is None and len(report["notes"]) == 2
    compared = compare_banks(lm, fitting_bank(lm), lm, fitting_bank(lm, seed=1), none)
    assert compared["source"]["gain"] is None and compared["retention"] is None and compared["users"] == 8


def test_ratings_that_are_all_the_same(make_lm: Callable[..., PersonalizedLM], head: RatingHead) -> None:
    lm = make_lm()
    rows = clicks_of(make_interactions(), [3.0] * 96)
    report = evaluate_bank(lm, fitting_bank(lm, head), {"train": rows, "validation": rows})
    errors = {name: value["rmse"] for name, value in report["baselines"].items()}
    assert errors.pop("matrix_factorization", 0.0) < 0.1  # gradient descent begins at random factors
    assert all(error == pytest.approx(0.0, abs=1e-6) for error in errors.values())
    assert np.isfinite(report["metrics"]["rmse"]) and report["notes"] == []
    assert set(baseline_predictions(rows, rows)) == set(report["baselines"])


def test_another_template_or_head_or_size_is_refused(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm, other = make_lm(), make_lm(template=CLICK)
    bank = fitting_bank(lm, head).with_provenance(template=lm.template.text)
    with pytest.raises(MismatchError, match="give the scorer the bank's template"):
        evaluate_bank(other, bank, interactions)
    with pytest.raises(MismatchError, match="give the scorer the bank's template"):
        controls(other, bank, interactions)
    with pytest.raises(MismatchError, match="give the scorer the bank's template"):
        compare_banks(lm, bank, other, bank, interactions)
    with pytest.raises(MismatchError, match="head is for 3 answers, the task has 5"):
        evaluate_bank(lm, bank, interactions, RatingHead(3))
    with pytest.raises(ConfigurationError, match="batch_size"):
        evaluate_bank(lm, bank, interactions, batch_size=0)


def test_the_callers_head_stays_where_it_is(
    make_lm: Callable[..., PersonalizedLM],
    interactions: datasets.Dataset,
    head: RatingHead,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = make_lm()
    moved: list[RatingHead] = []
    to = RatingHead.to
    monkeypatch.setattr(RatingHead, "to", lambda self, *where: moved.append(self) or to(self, *where))
    HeldOut.build(lm, fitting_bank(lm), interactions, head).own  # noqa: B018  computed when read
    assert moved and all(one is not head for one in moved)


def test_users_of_one_bank_and_users_without_rows_are_counted(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    bank = fitting_bank(lm, head)
    rows = of_users(interactions, [f"user-{number}" for number in range(5)]).select(range(49))
    report = compare_banks(lm, bank, lm, bank.remove(["user-0"]), rows)
    assert (report["users"], report["users_in_one_bank"], report["users_without_rows"]) == (4, 1, 3)
    assert report["source"]["rows"] == 37  # the last user has one row
    twice = compare_banks(lm, bank, lm, bank, rows, users=["user-3", "user-4", "user-3"])
    assert twice["users"] == 2 and twice["source"]["rows"] == 13
    with pytest.raises(UnknownUserError, match="1 of 2 users are in neither bank"):
        compare_banks(lm, bank, lm, bank, rows, users=["user-3", "nobody"])
    with pytest.raises(MismatchError, match="tasks differ"):
        compare_banks(lm, bank, make_lm(task=RatingTask((1, 2, 3))), bank, rows)


def test_users_with_equal_prompts_make_fewer_clusters(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    same = PromptBank.from_arrays([f"user-{i}" for i in range(8)], np.ones((8, 1, 32)), lm.spec, head=head)
    report = compare_banks(lm, same, lm, same, interactions)
    assert report["retention"] is None and sum(cluster["users"] for cluster in report["clusters"]) == 8
