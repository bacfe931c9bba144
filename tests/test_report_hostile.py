"""The report on a migration of few, odd and very many predictions."""

from __future__ import annotations

import json
import resource
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from puma_hub import OrdinalTask
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError, NotFiniteError
from puma_hub.evaluation.report.bootstrap import Bootstrap
from puma_hub.evaluation.report.drift import drift
from puma_hub.evaluation.report.migration import MigrationReport
from puma_hub.evaluation.report.page import page
from tests.simulated import controls, simulated, true_figures
from tests.test_report import clicks, paired, ratings, report_of


def whole(report: MigrationReport) -> dict[str, Any]:
    """The report as its readers get it: JSON without NaN, and a page; no user is named."""
    text = page(report.data, report.gains)
    written = json.dumps(report.data, allow_nan=False)
    assert "user-" not in written and "user-" not in text and ">nan" not in text.lower()
    found: dict[str, Any] = json.loads(written)
    return found


def test_one_user() -> None:
    before, after = ratings(0, 1)
    before, after = (
        replace(one, predictions={name: one.predictions[name] for name in ("own", "mean")}) for one in (before, after)
    )
    data = whole(report_of(before, after))
    assert (
        data["figures"]["rmse"]["source"]["own"]["low"] is None and "shuffled" not in data["figures"]["rmse"]["source"]
    )
    assert "one user has no intervals" in " ".join(data["notes"]) and data["gains"]["spearman"] is None


def test_users_with_one_row_each() -> None:
    before, after = ratings(0, 40)
    first = [before.row_users.index(user) for user in dict.fromkeys(before.row_users)]
    before, after = (
        replace(
            one,
            row_users=[one.row_users[place] for place in first],
            labels=one.labels[first],
            predictions={name: values[first] for name, values in one.predictions.items()},
        )
        for one in (before, after)
    )
    data = whole(report_of(before, after))
    clearly = data["worse"]["clearly"]
    assert (
        clearly["users"] == 0 and clearly["share_worse"]["estimate"] is None and clearly["excess"]["estimate"] is None
    )
    assert len(data["drift"]["by_activity"]["groups"]) == 1
    assert any("40 of 40 users have fewer than 3 rows" in note for note in data["notes"])


def test_constant_predictions_and_no_gain() -> None:
    before, after = ratings(0, 40)
    flat = np.full(len(before.labels), 3.1)
    same = replace(before, predictions=dict.fromkeys(before.predictions, flat))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = whole(report_of(same, after))
        assert data["agreement"]["pearson"]["estimate"] is None and data["agreement"]["spearman"] is None
        assert data["retention"] is None and "no personal gain" in " ".join(data["notes"])
        assert data["calibration"]["source"]["slope"] == pytest.approx(1.0)
        data = whole(report_of(before, before))  # nothing changes
    assert data["worse"]["any"]["count"] == data["worse"]["clearly"]["worse"] == 0
    assert data["worse"]["any"]["by_noise"]["expected"] == 0
    assert data["agreement"]["pearson"]["estimate"] == data["agreement"]["same_decision"]["low"] == pytest.approx(1)
    assert data["figures"]["rmse"]["retention"] == pytest.approx({"estimate": 1.0, "low": 1.0, "high": 1.0})
    perfect = replace(before, predictions=dict.fromkeys(before.predictions, before.labels))
    data = whole(report_of(perfect, after))
    assert data["worse"]["changes"] is None and data["worse"]["thresholds"] == []


def test_retention_of_a_gain_that_is_not_clear_has_no_interval() -> None:
    before, after = ratings(0, 12)
    faint = 0.001 * np.random.default_rng(0).choice([-1, 1], len(before.labels))
    own = before.predictions["mean"] + faint
    data = whole(report_of(replace(before, predictions={**before.predictions, "own": own}), after))
    gain, kept = data["figures"]["rmse"]["source"]["gain"], data["figures"]["rmse"]["retention"]
    assert gain["low"] < 0 < gain["high"] and kept["low"] is None and kept["high"] is None
    assert kept["estimate"] is None or "not clearly above 0" in " ".join(data["notes"])


def test_clicks_of_one_class() -> None:
    before, after = (replace(one, labels=np.zeros(len(one.labels))) for one in clicks(0, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = whole(report_of(before, after))
    assert data["figures"]["auc"]["source"]["own"] == {"estimate": None, "low": None, "high": None}
    assert len([note for note in data["notes"] if "not defined" in note]) == 2
    assert data["calibration"]["source"]["brier"]["estimate"] > 0


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (
            lambda one: replace(one, predictions={**one.predictions, "mean": one.labels * np.nan}),
            NotFiniteError,
            "mean",
        ),
        (lambda one: replace(one, labels=one.labels + 1), MismatchError, "labels .* differ"),
        (lambda one: replace(one, row_users=one.row_users[::-1]), MismatchError, "other rows"),
        (lambda one: replace(one, task=OrdinalTask()), MismatchError, "other tasks"),
    ],
)
def test_sides_that_do_not_go_together(spoil: Any, error: type[Exception], says: str) -> None:
    before, after = ratings(0, 5)
    with pytest.raises(error, match=says) as raised:
        report_of(before, spoil(after))
    assert "user-" not in str(raised.value)


def test_numbers_that_cannot_be_used() -> None:
    before, after = ratings(0, 5)
    unlabelled = [
        replace(one, labels=np.where(np.arange(len(one.labels)) < 2, np.nan, one.labels)) for one in (before, after)
    ]
    with pytest.raises(InteractionsError, match="2 labels are NaN"):
        report_of(*unlabelled)
    with pytest.raises(ConfigurationError, match="resamples must be a whole number >= 100"):
        report_of(before, after, resamples=20)
    with pytest.raises(ConfigurationError, match="seed must be a whole number >= 0"):
        report_of(before, after, seed=-1)
    with pytest.raises(ConfigurationError, match="training_rows must have one number for each of 5 users"):
        report_of(before, after, training_rows=np.ones(4))


def test_the_same_seed_gives_the_same_report() -> None:
    reports = [report_of(*ratings(0, 30), seed=seed) for seed in (1, 1, 2)]
    texts = [json.dumps(one.data) + page(one.data, one.gains) for one in reports]
    assert texts[0] == texts[1] != texts[2]
    lots = Bootstrap(30, 500, 3)
    pieces = [counts.sum() for counts in lots._drawn()]
    assert sum(pieces) == 30 * 500
    assert np.array_equal(np.concatenate(list(lots._drawn())), np.concatenate(lots._kept))


def test_groups_of_activity_keep_equal_users_together() -> None:
    rows = paired(users=50)
    activity = np.repeat([3, 3, 3, 3, 9], 10)
    found = drift(rows, activity, "training rows", np.zeros(50, np.int64), Bootstrap(50, 100))
    groups = found["by_activity"]["groups"]
    assert [(one["users"], one["activity"]) for one in groups] == [
        (40, {"from": 3, "to": 3}),
        (10, {"from": 9, "to": 9}),
    ]


def test_a_hundred_thousand_users() -> None:
    before, after = controls(simulated(np.random.default_rng(0), 100_000, rows=3))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = report_of(before, after, resamples=100)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    assert grown < 1.5 * 2**20, f"{grown / 2**20:.1f} GiB"  # ru_maxrss is in KiB
    true, found = true_figures(), report.data["figures"]["rmse"]
    assert found["retention"]["estimate"] == pytest.approx(true["retention"], abs=0.02)
    assert found["retention"]["low"] < true["retention"] < found["retention"]["high"]
    text = page(report.data, report.gains)
    assert len(text) < 1_000_000
