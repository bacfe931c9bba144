"""The report on a migration: its numbers against independent ones, whether intervals cover, hostile input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LinearRegression
from sklearn.metrics import brier_score_loss, cohen_kappa_score, mean_absolute_error, mean_squared_error, roc_auc_score

from puma_hub import ClickTask, LikeTask, OrdinalTask, RatingTask
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.report.bootstrap import Bootstrap
from puma_hub.evaluation.report.figures import figures
from puma_hub.evaluation.report.metric_figures import metric_statistic
from puma_hub.evaluation.report.migration import MigrationReport, report_of_predictions
from puma_hub.evaluation.report.page import page
from puma_hub.evaluation.report.paired import PairedRows
from puma_hub.evaluation.report.worse import worse
from puma_hub.tasks import Metric, RatingHead, Task
from tests.simulated import controls, simulated, true_figures


def paired(seed: int = 0, users: int = 60, task: Task | None = None) -> PairedRows:
    return PairedRows.of(*controls(simulated(np.random.default_rng(seed), users), task))


def report_of(before: Controls, after: Controls, **options: Any) -> MigrationReport:
    users = len(set(before.row_users))
    return report_of_predictions(before, after, np.arange(users) % 3, **{"resamples": 200, **options})


def clicks(seed: int = 0, users: int = 60) -> tuple[Controls, Controls]:
    generator = np.random.default_rng(seed)
    drawn = simulated(generator, users)
    labels = (generator.random(len(drawn["labels"])) < 1 / (1 + np.exp(-2 * drawn["labels"]))).astype(float)
    sides = controls({**drawn, "labels": labels}, ClickTask())
    return tuple(
        replace(one, predictions={name: 1 / (1 + np.exp(-values)) for name, values in one.predictions.items()})
        for one in sides
    )  # type: ignore[return-value]


def ratings(seed: int = 0, users: int = 60, task: Task | None = None) -> tuple[Controls, Controls]:
    sides = controls(simulated(np.random.default_rng(seed), users), task)
    labels = np.clip(np.round(3 + sides[0].labels), 1, 5)
    return tuple(
        replace(one, labels=labels, predictions={name: 3 + values for name, values in one.predictions.items()})
        for one in sides
    )  # type: ignore[return-value]


def test_intervals_cover() -> None:
    """Of 1,000 draws of 200 users, 93 to 97 % of the intervals hold the figure of infinitely many users."""
    bootstrap, true = Bootstrap(200, 600, 1), true_figures()
    held = dict.fromkeys(true, 0)
    for seed in range(1000):
        drawn = simulated(np.random.default_rng(seed))
        rows = PairedRows(RMSE_ONLY, drawn["users"], drawn["labels"], drawn["source"], drawn["target"])
        ids = drawn["users"].tolist()
        compared = {side: Controls(RMSE_ONLY, ids, drawn["labels"], drawn[side]).report() for side in OWN_SIDES}
        found = figures(rows, compared, bootstrap)["rmse"]
        intervals = {
            **{side: found[side]["own"] for side in OWN_SIDES},
            **{f"{side} gain": found[side]["gain"] for side in OWN_SIDES},
            **{name: found[name] for name in ("worsening", "retention")},
        }
        for name, one in intervals.items():
            held[name] += one["low"] <= true[name] <= one["high"]
    assert all(930 <= count <= 970 for count in held.values()), held


OWN_SIDES = ("source", "target")


@dataclass(frozen=True)
class OneMetric(RatingTask):
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("rmse", lower_is_better=True),)

    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        return {"rmse": float(np.sqrt(np.mean(np.square(predictions - labels))))}


RMSE_ONLY = OneMetric()


def test_intervals_against_scipy() -> None:
    rows = paired(users=40)
    report = report_of(*controls(simulated(np.random.default_rng(0), 40)), resamples=20_000).data
    errors = rows.sums(np.square(rows.source["own"] - rows.labels), np.square(rows.target["own"] - rows.labels))

    def worsening(users: np.ndarray, axis: int = -1) -> np.ndarray:
        total, size = errors[users].sum(axis=-2), rows.rows[users].sum(axis=-1)
        return np.sqrt(total[..., 1] / size) - np.sqrt(total[..., 0] / size)

    share = stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.025, 39))  # of the expanded interval
    found = stats.bootstrap(
        (np.arange(40),),
        worsening,
        n_resamples=20_000,
        method="percentile",
        confidence_level=1 - 2 * share,
        rng=np.random.default_rng(3),
    ).confidence_interval
    ours = report["figures"]["rmse"]["worsening"]
    width = found.high - found.low
    assert ours["estimate"] == pytest.approx(worsening(np.arange(40)))
    assert ours["low"] == pytest.approx(found.low, abs=0.03 * width)
    assert ours["high"] == pytest.approx(found.high, abs=0.03 * width)


def weighted(rows: PairedRows, name: str, values: np.ndarray, weights: np.ndarray) -> float:
    """A metric of resampled users, by scikit-learn's weights of rows."""
    of_row = weights[rows.users]
    if name == "rmse":
        return float(np.sqrt(mean_squared_error(rows.labels, values, sample_weight=of_row)))
    if name == "mae":
        return float(mean_absolute_error(rows.labels, values, sample_weight=of_row))
    if name == "auc":
        return float(roc_auc_score(rows.labels, values, sample_weight=of_row))
    if name == "quadratic_kappa":
        nearest = np.clip(np.ceil(values - 0.5), 1, 5)
        return float(cohen_kappa_score(rows.labels, nearest, weights="quadratic", sample_weight=of_row))
    both = [user for user in range(len(rows.rows)) if len(set(rows.labels[rows.users == user])) == 2]
    each = [roc_auc_score(rows.labels[rows.users == user], values[rows.users == user]) for user in both]
    return float(np.average(each, weights=weights[both]))


@pytest.mark.parametrize(
    "sides", [ratings(), ratings(task=OrdinalTask()), clicks()], ids=["rating", "ordinal", "click"]
)
def test_metrics_of_resampled_users_against_sklearn(sides: tuple[Controls, Controls]) -> None:
    before, after = (
        replace(one, predictions={name: values.round(1) for name, values in one.predictions.items()}) for one in sides
    )  # with ties
    rows, known = PairedRows.of(before, after), [before.report()["by_metric"], after.report()["by_metric"]]
    weights = np.random.default_rng(7).multinomial(60, np.full(60, 1 / 60), 5).astype(float)
    for metric in rows.task.metrics:
        predictions = [rows.source["own"], rows.target["mean"]]
        values = [known[0][metric.name]["own"], known[1][metric.name]["mean"]]
        statistic = metric_statistic(metric, rows, predictions, values)
        expected = [[weighted(rows, metric.name, one, drawn) for one in predictions] for drawn in weights]
        assert statistic.of(weights) == pytest.approx(np.array(expected), rel=1e-9)
        slow = metric_statistic(metric, rows, predictions, [0.5, 0.5])  # which the form does not give
        assert slow.most is not None and slow.of(weights) == pytest.approx(np.array(expected), rel=1e-9)


@dataclass(frozen=True)
class VerdictTask(Task):
    """A task as others write it: three verdicts, and a metric that is no mean of rows."""

    name: ClassVar[str] = "verdict<b>"
    title: ClassVar[str] = "verdicts </script><script>alert(1)</script>"
    template: ClassVar[str] = "<item> <user>"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("median $\\frac$ <i>hit</i>", lower_is_better=False),
        Metric("rmse", lower_is_better=True),
    )

    @property
    def answers(self) -> tuple[str, ...]:
        return ("<u>bad</u>", "fine", "good")

    def check_labels(self, labels: Sequence[float] | np.ndarray) -> None:
        pass

    def loss(self, logits: Any, labels: Any, head: RatingHead | None, probabilities: Any = None) -> torch.Tensor:
        raise NotImplementedError

    def linear_predictor(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        return logits[:, 2] - logits[:, 0]

    def link(self, predictions: torch.Tensor) -> torch.Tensor:
        return predictions

    def predict(self, logits: torch.Tensor, head: RatingHead | None) -> torch.Tensor:
        return self.linear_predictor(logits, head)

    def scores(self, predictions: np.ndarray, labels: np.ndarray, users: Sequence[str]) -> dict[str, float | None]:
        by_user = pd.Series(np.abs(predictions - labels) < 0.5).groupby(np.asarray(users, dtype=object)).mean()
        error = float(np.sqrt(np.mean(np.square(predictions - labels)))) * 100  # of another scale than its name says
        return {"median $\\frac$ <i>hit</i>": float(np.median(by_user)), "rmse": error}


def test_a_task_of_others_is_scored_by_itself() -> None:
    sides = controls(simulated(np.random.default_rng(2), 20), VerdictTask())
    sides = tuple(replace(one, labels=np.clip(np.round(one.labels), -1, 1)) for one in sides)  # type: ignore[assignment]
    report = report_of(*sides, resamples=100)
    found = report.data["figures"]
    own = sides[0].task.scores(sides[0].predictions["own"], sides[0].labels, sides[0].row_users)
    assert {name: one["source"]["own"]["estimate"] for name, one in found.items()} == pytest.approx(own)
    hit, error = found.values()
    assert hit["worsening"]["estimate"] == pytest.approx(
        hit["source"]["own"]["estimate"] - hit["target"]["own"]["estimate"]
    )
    assert 50 < error["source"]["own"]["low"] < error["source"]["own"]["estimate"] < error["source"]["own"]["high"]
    decided = [np.digitize(one.predictions["own"], [-0.5, 0.5], right=True) for one in sides]
    assert report.data["agreement"]["same_decision"]["estimate"] == pytest.approx(np.mean(decided[0] == decided[1]))
    text = page(report.data, report.gains)
    assert "<script" not in text and "<i>hit" not in text and "<u>" not in text and "&lt;u&gt;bad" in text


def test_what_is_decided_follows_from_the_tasks_labels() -> None:
    assert LikeTask().label_values == (0.0, 1.0) and OrdinalTask((1, 3)).label_values == (1, 3)
    users, labels, values = np.zeros(4, np.int64), np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.2, 0.5, 0.51, 1.0])
    sides = ({"own": values},) * 2
    rows = PairedRows(ClickTask(), users, labels, *sides)
    assert list(rows.decisions(values)) == [0, 0, 1, 1] and rows.are_probabilities
    assert list(PairedRows(RatingTask((0, 0.5, 4)), users, labels, *sides).decisions(values)) == [0, 1, 1, 1]
    unknown = PairedRows(VerdictTask(), np.zeros(200, np.int64), np.linspace(0, 1, 200), *sides)
    assert unknown.values is None and unknown.decisions(values) is None


def test_agreement_gains_and_drift_against_pandas() -> None:
    before, after = ratings(3, 80)
    training = np.random.default_rng(0).integers(5, 200, 80)
    data = report_of(before, after, training_rows=training).data
    table = pd.DataFrame(
        {
            "user": before.row_users,
            "label": before.labels,
            **{f"s_{name}": values for name, values in before.predictions.items()},
            **{f"t_{name}": values for name, values in after.predictions.items()},
        }
    )
    agreement = data["agreement"]
    assert agreement["pearson"]["estimate"] == pytest.approx(table.s_own.corr(table.t_own))
    assert agreement["spearman"] == pytest.approx(table.s_own.corr(table.t_own, method="spearman"))
    assert agreement["rmse_between"]["estimate"] == pytest.approx(np.sqrt(((table.s_own - table.t_own) ** 2).mean()))
    nearest = [np.clip(np.ceil(table[name] - 0.5), 1, 5) for name in ("s_own", "t_own")]
    assert agreement["same_decision"]["estimate"] == pytest.approx((nearest[0] == nearest[1]).mean())
    errors = {
        name: np.sqrt(((table[name] - table.label) ** 2).groupby(table.user).mean())
        for name in ("s_own", "s_mean", "t_own", "t_mean")
    }
    gains = errors["s_mean"] - errors["s_own"], errors["t_mean"] - errors["t_own"]
    assert data["gains"]["pearson"]["estimate"] == pytest.approx(gains[0].corr(gains[1]))
    assert data["gains"]["spearman"] == pytest.approx(gains[0].corr(gains[1], method="spearman"))
    assert data["gains"]["target"]["quantiles"]["0.25"] == pytest.approx(gains[1].quantile(0.25))
    assert data["worse_users"] == data["worse"]["any"]["count"] == int((errors["t_own"] > errors["s_own"]).sum())
    moved = (table.t_own - table.s_own).groupby(table.user)
    order = list(dict.fromkeys(before.row_users))
    users = pd.DataFrame({"sum": moved.sum(), "rows": moved.size()}).loc[order]
    users["decile"] = pd.qcut(training, 10, labels=False, duplicates="drop")
    expected = users.groupby("decile").sum()
    found = data["drift"]["by_activity"]["groups"]
    assert data["drift"]["by_activity"]["of"] == "training rows" and len(found) == len(expected) == 10
    assert [one["drift"]["estimate"] for one in found] == pytest.approx(list(expected["sum"] / expected.rows))
    assert [one["rows"] for one in found] == list(expected.rows)
    clusters = users.groupby(np.arange(80) % 3).sum()
    assert [one["drift"]["estimate"] for one in data["drift"]["by_cluster"]] == pytest.approx(
        list(clusters["sum"] / clusters.rows)
    )
    one = data["drift"]["all"]
    assert (
        one["drift"]["estimate"] == pytest.approx((table.t_own - table.s_own).mean()) == one["target"] - one["source"]
    )
    assert one["drift"]["low"] < one["drift"]["estimate"] < one["drift"]["high"]


def test_calibration_against_sklearn() -> None:
    before, after = ratings(4, 300)
    found = report_of(before, after).data["calibration"]["target"]
    fitted = LinearRegression().fit(after.predictions["own"][:, None], after.labels)
    assert found["slope"] == pytest.approx(fitted.coef_[0], abs=0.02)
    assert found["level"] == pytest.approx(fitted.intercept_, abs=0.06)
    before, after = clicks(4, 300)
    found = report_of(before, after).data["calibration"]["source"]
    labels, values = before.labels, before.predictions["own"]
    assert found["brier"]["estimate"] == pytest.approx(brier_score_loss(labels, values))
    curve = calibration_curve(labels, values, n_bins=10, strategy="quantile")
    assert [one["label"] for one in found["bins"]] == pytest.approx(list(curve[0]))
    assert [one["prediction"] for one in found["bins"]] == pytest.approx(list(curve[1]))
    sizes = np.array([one["rows"] for one in found["bins"]])
    assert found["ece"] == pytest.approx(np.average(np.abs(curve[0] - curve[1]), weights=sizes))
    assert found["slope"] > 1.2  # labels were drawn with twice these log-odds


def test_who_gets_worse_against_all_flips() -> None:
    generator = np.random.default_rng(0)
    sizes = [1, 2, 3, 3, 4, 5, 6]
    users = np.repeat(np.arange(len(sizes)), sizes)
    labels = generator.normal(size=len(users))
    sides = [{"own": generator.normal(size=len(users))} for _ in range(2)]
    found = worse(PairedRows(RatingTask(), users, labels, *sides), 0)
    differences = (sides[1]["own"] - labels) ** 2 - (sides[0]["own"] - labels) ** 2
    error = np.mean((sides[0]["own"] - labels) ** 2)
    clear, above, able = [], [], 0
    for user, size in enumerate(sizes):
        own = differences[users == user]
        signs = np.array(list(itertools.product((-1, 1), repeat=size)))
        sums = signs @ own
        above.append(np.mean(np.sqrt(np.maximum(0, 1 + sums / size / error)) - 1 > 0.25))
        if size >= 3:
            able += 1
            clear.append(np.mean(sums > 1.645 * np.sqrt((own**2).sum())))
    assert found["clearly"]["users"] == able == 5 and found["flips"] == 1000
    assert found["clearly"]["by_noise"]["expected"] == pytest.approx(np.mean(clear), abs=0.015)
    assert found["any"]["by_noise"]["expected"] == pytest.approx(0.5, abs=0.03)
    (quarter,) = [one for one in found["thresholds"] if one["above"] == 0.25]
    assert quarter["by_noise"]["expected"] == pytest.approx(np.mean(above), abs=0.03)
    by_user = np.bincount(users, differences)
    assert found["any"]["count"] == (by_user > 0).sum()
    spread = np.sqrt(np.bincount(users, differences**2))
    assert found["clearly"]["worse"] == sum((by_user > 1.645 * spread)[2:])
    share = found["any"]["share"]
    wilson = stats.binomtest(found["any"]["count"], 7).proportion_ci(method="wilson")
    assert (share["low"], share["high"]) == pytest.approx((wilson.low, wilson.high))


@pytest.mark.parametrize(("harmed", "least", "most"), [(0.0, -0.03, 0.03), (0.2, 0.15, 0.25)])
def test_the_share_beyond_noise_is_that_of_harmed_users(harmed: float, least: float, most: float) -> None:
    """Two systems of equal quality, but for some users whom the second one serves badly."""
    generator = np.random.default_rng(1)
    users = np.repeat(np.arange(500), 20)
    labels = generator.normal(size=len(users))
    sides = [{"own": generator.normal(0, 0.3, len(users))} for _ in range(2)]
    sides[1]["own"][users < harmed * 500] += 1.5
    found = worse(PairedRows(RatingTask(), users, labels, *sides), 0)
    assert least < found["clearly"]["excess"]["estimate"] < most
    assert found["clearly"]["excess"]["low"] < harmed < found["clearly"]["excess"]["high"]
    assert 0.02 < found["clearly"]["by_noise"]["expected"] < 0.07
    if not harmed:
        noise = found["any"]["by_noise"]
        assert noise["low"] <= found["any"]["share"]["estimate"] <= noise["high"]
