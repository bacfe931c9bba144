"""Metrics and baselines against sklearn and closed forms, reports and controls."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, roc_auc_score

from puma_hub import ClickTask, PersonalizedLM, PromptBank, compare_banks, evaluate_bank
from puma_hub.data import chronological_split
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.evaluation import baseline_predictions, controls
from puma_hub.evaluation.compare import derangement
from puma_hub.metrics import MAE, RMSE, UserAUC
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank, make_interactions


def fitting_bank(lm: PersonalizedLM, head: RatingHead | None = None, seed: int = 0, users: int = 8) -> PromptBank:
    prompts = np.random.default_rng(seed).normal(size=(users, 1, 32)).astype(np.float32)
    return PromptBank.from_arrays([f"user-{i}" for i in range(users)], prompts, lm.spec, head=head, task=lm.task)


def test_metrics_against_sklearn() -> None:
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(1, 6, 60).astype(float), generator.normal(3, 1, 60).astype(np.float32)
    assert RMSE().compute(predictions=predictions, references=labels)["rmse"] == pytest.approx(
        mean_squared_error(labels, predictions) ** 0.5
    )
    assert MAE().compute(predictions=predictions, references=labels)["mae"] == pytest.approx(
        mean_absolute_error(labels, predictions)
    )
    clicks = (labels > 3).astype(float)
    users = [f"u{i % 7}" for i in range(60)]
    by_user = [roc_auc_score(clicks[i::7], predictions[i::7]) for i in range(7)]
    result = UserAUC().compute(predictions=predictions, references=clicks, user_ids=users)
    assert result == {"user_auc": pytest.approx(np.mean(by_user)), "users": 7}


def test_user_auc_leaves_out_users_of_one_class() -> None:
    result = UserAUC().compute(predictions=[0.1, 0.9, 0.5], references=[0, 1, 1], user_ids=["a", "a", "b"])
    assert result == {"user_auc": 1.0, "users": 1}
    with pytest.raises(ConfigurationError, match="both classes"):
        UserAUC().compute(predictions=[0.1], references=[0], user_ids=["a"])


@pytest.mark.parametrize("metric", [RMSE, MAE])
def test_metrics_refuse_nothing_and_nan(metric: type[RMSE]) -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        metric().compute(predictions=[], references=[])
    with pytest.raises(ConfigurationError, match="NaN"):
        metric().compute(predictions=[float("nan")], references=[1.0])


def test_metrics_add_batches() -> None:
    metric = RMSE()
    metric.add_batch(predictions=[1.0, 2.0], references=[1.0, 4.0])
    assert metric.compute()["rmse"] == pytest.approx(2**0.5)


def test_baselines_by_closed_form(interactions: datasets.Dataset) -> None:
    splits = chronological_split(interactions)
    train, rows = splits["train"].to_pandas(), splits["validation"].to_pandas()
    found = baseline_predictions(splits["train"], splits["validation"])
    assert np.allclose(found["global_mean"], train.label.mean())
    assert np.allclose(found["user_mean"], rows.user_id.map(train.groupby("user_id").label.mean()))
    names = [f"u:{u}" for u in sorted(set(train.user_id))] + [
        f"i:{i}" for i in sorted(set(train.item_id) | set(rows.item_id))
    ]
    column = {name: i for i, name in enumerate(names)}

    def design(frame):  # type: ignore[no-untyped-def]
        matrix = np.zeros((len(frame), len(names)))
        for row, (user, item) in enumerate(zip(frame.user_id, frame.item_id)):
            matrix[row, [column[f"u:{user}"], column[f"i:{item}"]]] = 1
        return matrix

    x, y = design(train), train.label.to_numpy() - train.label.mean()
    weights = np.linalg.solve(x.T @ x + 5.0 * np.eye(len(names)), x.T @ y)
    assert np.allclose(found["user_item_bias"], train.label.mean() + design(rows) @ weights, atol=1e-5)


def test_baselines_of_new_users_and_items(interactions: datasets.Dataset) -> None:
    new = datasets.Dataset.from_dict({"user_id": ["nobody"], "item_id": ["new"], "item_text": ["N"], "label": [3.0]})
    found = baseline_predictions(interactions, new)
    for values in found.values():
        assert np.allclose(values, np.mean(interactions["label"]))


def test_report_by_hand(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    bank = fitting_bank(lm, head)
    splits = chronological_split(interactions)
    report = evaluate_bank(lm, bank, splits)
    held = splits["validation"]
    prompts = torch.from_numpy(np.stack([bank[user] for user in held["user_id"]]))
    with torch.no_grad():
        predictions = head(lm.logits(prompts, list(held.select_columns(["item_text"])))).numpy()
    assert report["metrics"]["rmse"] == pytest.approx(mean_squared_error(held["label"], predictions) ** 0.5, rel=1e-5)
    assert (report["rows"], report["users"], report["rows_without_prompt"]) == (24, 8, 0)
    assert set(report["baselines"]) - {"matrix_factorization"} == {"global_mean", "user_mean", "user_item_bias"}


def test_users_without_a_prompt_are_counted(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    report = evaluate_bank(lm, fitting_bank(lm, head, users=3), interactions)
    assert (report["rows"], report["users"], report["rows_without_prompt"]) == (36, 3, 60)
    assert "baselines" not in report  # no training rows given


def test_click_report(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(template="click", task=ClickTask())
    rows = make_interactions()
    clicks = rows.remove_columns("label").add_column("label", [float(i % 2) for i in range(len(rows))])  # type: ignore[call-arg]
    clicks = clicks.add_column("history", [["Toy Story"]] * len(rows))  # type: ignore[call-arg]
    bank = fitting_bank(lm)
    report = evaluate_bank(lm, bank, clicks)
    prompts = torch.from_numpy(np.stack([bank[user] for user in clicks["user_id"]]))
    with torch.no_grad():
        log_odds = lm.logits(prompts, clicks.select_columns(["item_text", "history"]))[:, 0].numpy()
    labels = np.array(clicks["label"])
    expected = [roc_auc_score(labels[i : i + 12], log_odds[i : i + 12]) for i in range(0, 96, 12)]
    assert report["metrics"]["auc"] == pytest.approx(roc_auc_score(labels, log_odds), abs=1e-3)
    assert report["metrics"]["user_auc"] == pytest.approx(np.mean(expected), abs=1e-2)
    assert report["counts"] == {"users_with_both_classes": 8}


def test_controls_by_hand(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead
) -> None:
    lm = make_lm()
    bank = fitting_bank(lm, head)
    users = ["user-1", "user-4", "user-6"]
    found = controls(lm, bank, interactions, users, seed=5)
    rows = interactions.filter(lambda row: row["user_id"] in users)

    def predicted(prompt_of: Callable[[str], np.ndarray]) -> np.ndarray:
        prompts = torch.from_numpy(np.stack([prompt_of(user) for user in rows["user_id"]]))
        with torch.no_grad():
            return head(lm.logits(prompts, list(rows.select_columns(["item_text"])))).numpy()

    def rmse_with(prompt_of: Callable[[str], np.ndarray]) -> float:
        return float(mean_squared_error(rows["label"], predicted(prompt_of)) ** 0.5)

    def mae_with(prompt_of: Callable[[str], np.ndarray]) -> float:
        return float(mean_absolute_error(rows["label"], predicted(prompt_of)))

    mean = bank.prompts.mean(0)
    order = derangement(3, seed=5)
    shuffled = {user: bank[users[order[i]]] for i, user in enumerate(users)}
    assert found["own"] == pytest.approx(rmse_with(bank.__getitem__), rel=1e-5)
    assert found["mean"] == pytest.approx(rmse_with(lambda user: mean), rel=1e-5)
    assert found["shuffled"] == pytest.approx(rmse_with(shuffled.__getitem__), rel=1e-5)
    assert found["gain"] == pytest.approx(found["mean"] - found["own"])
    assert found["by_metric"]["rmse"] == {name: found[name] for name in ("own", "mean", "shuffled", "gain")}
    by_mae = found["by_metric"]["mae"]
    assert by_mae["own"] == pytest.approx(mae_with(bank.__getitem__), rel=1e-5)
    assert by_mae["gain"] == pytest.approx(mae_with(lambda user: mean) - by_mae["own"], abs=1e-5)


def test_compare(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead) -> None:
    first, second = make_lm("llama"), make_lm("gemma3")
    report = compare_banks(first, fitting_bank(first, head), second, fitting_bank(second, head, 1), interactions)
    assert report["users"] == 8 and len(report["worse_user_ids"]) == report["worse_users"]
    assert sum(cluster["users"] for cluster in report["clusters"]) == 8
    overall = np.sqrt(
        sum(c["target"] ** 2 * c["rows"] for c in report["clusters"]) / sum(c["rows"] for c in report["clusters"])
    )
    assert overall == pytest.approx(report["target"]["own"], rel=1e-5)
    gain = report["source"]["gain"]
    assert report["retention"] == (pytest.approx(report["target"]["gain"] / gain) if gain > 0 else None)
    same = compare_banks(first, fitting_bank(first, head), first, fitting_bank(first, head), interactions)
    assert same["worse_users"] == 0


def test_refusals(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, head: RatingHead) -> None:
    lm, other = make_lm(), make_lm(seed=1)
    bank = fitting_bank(lm, head)
    with pytest.raises(MismatchError, match="other weights"):
        evaluate_bank(other, bank, interactions)
    with pytest.raises(MismatchError, match="hidden size"):
        evaluate_bank(lm, make_bank(size=16), interactions)
    with pytest.raises(MismatchError, match="another task"):
        evaluate_bank(make_lm(template="click", task=ClickTask()), bank, interactions)
    stranger = PromptBank.from_arrays(["nobody"], np.ones((1, 1, 32)), lm.spec)
    with pytest.raises(InteractionsError, match="none of the 96 rows"):
        evaluate_bank(lm, stranger, interactions)
    with pytest.raises(MismatchError, match="share no user"):
        compare_banks(lm, bank, lm, stranger, interactions)
    with pytest.raises(InteractionsError, match="split validation"):
        evaluate_bank(lm, bank, {"train": interactions})
    for other in (interactions.to_iterable_dataset(), interactions.to_pandas()):
        with pytest.raises(InteractionsError, match=r"must be a datasets\.Dataset"):
            evaluate_bank(lm, bank, other)
