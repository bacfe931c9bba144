"""Conditions on a report: which value is compared with which bound, what a report lacks, the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError
from puma_hub.evaluation import Gate
from puma_hub.evaluation.compare import compare_in_clusters
from puma_hub.evaluation.gate import CONDITIONS
from puma_hub.evaluation.report.migration import report_of_predictions
from tests.simulated import controls, simulated


def interval(estimate: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"estimate": estimate, "low": low, "high": high}


def made(**changes: Any) -> dict[str, Any]:
    """What a gate reads of a report, with round numbers."""
    return {
        "format_version": 1,
        "source": {"metric": "auc", "own": 0.8, "rows": 900},
        "target": {"metric": "auc", "own": 0.77, "rows": 900},
        "users": 100,
        "retention": 0.9,
        "figures": {
            "auc": {"retention": interval(0.9, 0.7, 1.1), "worsening": interval(0.03, 0.01, 0.05)},
            "other": {"retention": interval(0.1, 0.1, 0.1), "worsening": interval(9, 9, 9)},
        },
        "worse": {"clearly": {"excess": interval(0.04, -0.01, 0.12)}},
        "agreement": {"pearson": interval(0.95, 0.93, 0.97)},
        "drift": {"all": {"drift": interval(-0.02, -0.06, 0.03)}},
        **changes,
    }


# The value by estimate, and the bound of the interval that is the worse one for the condition.
VALUES = {
    "min_retention": (0.9, 0.7),
    "max_worse_share": (0.04, 0.12),
    "max_worsening": (0.03, 0.05),
    "min_correlation": (0.95, 0.93),
    "max_drift": (0.02, 0.06),
    "min_users": (100, 100),
    "min_rows": (900, 900),
}


def test_every_condition_is_tried_here() -> None:
    assert VALUES.keys() == set(CONDITIONS)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("place", [0, 1])
def test_the_value_that_is_compared(name: str, place: int) -> None:
    by, value = ("estimate", "interval")[place], VALUES[name][place]
    step = 1 if name in ("min_users", "min_rows") else 0.001
    worse = step if name.startswith("min") else -step
    for limit, passed in ((value, True), (value - worse, True), (value + worse, False)):
        verdict = Gate(**{name: limit}, by=by).judge(made())
        (outcome,) = verdict.outcomes
        assert verdict.passed is outcome.passed is passed and outcome.value == value and outcome.reason is None
        assert str(outcome).startswith("pass" if passed else "FAIL") and f"{value:g}" in str(outcome)


def test_all_conditions_have_to_be_met() -> None:
    limits = {name: value for name, (value, _) in VALUES.items()}
    assert Gate(**limits).judge(made()).passed  # type: ignore[arg-type]
    verdict = Gate(**{**limits, "min_rows": 901}).judge(made())  # type: ignore[arg-type]
    assert not verdict.passed and [one.condition for one in verdict.outcomes if not one.passed] == ["min_rows"]
    written = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert written["passed"] is False and written["by"] == "estimate" and len(written["conditions"]) == len(VALUES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"worse": {"clearly": {"excess": interval(None, None, None)}}}, "not defined for these rows"),
        ({"worse": {"clearly": {"excess": interval(math.nan, 0, 0)}}}, "not defined"),
        ({"worse": {"clearly": {"excess": interval(0.0, None, None)}}}, "no upper bound; it needs more users"),
        ({"worse": {"clearly": {"excess": {"estimate": True, "high": True}}}}, "not defined"),
        ({"worse": {"clearly": {"excess": {"estimate": 0.0, "high": "0"}}}}, "no upper bound"),
        ({"worse": {"clearly": {}}}, "does not hold it; make one with puma-hub report"),
        ({"worse": None}, "does not hold it"),
        ({"worse": [1, 2]}, "does not hold it"),
    ],
)
def test_a_value_that_is_lacking_fails(changes: dict[str, Any], says: str) -> None:
    (outcome,) = Gate(max_worse_share=0.5, by="interval").judge(made(**changes)).outcomes
    assert not outcome.passed and outcome.value is None and outcome.reason is not None and says in outcome.reason


@pytest.mark.parametrize("users", [None, True, "many", math.inf, 10**400, {"estimate": "5"}])
def test_numbers_of_users_that_are_none(users: object) -> None:
    assert not Gate(min_users=6).judge(made(users=users)).passed


@pytest.mark.parametrize(
    "report", [{}, [], None, {"rmse": 1.0}, {"source": {}, "target": {}}, {"source": 1, "target": 2}, {"kind": "bank"}]
)
def test_what_is_no_report(report: Any) -> None:
    with pytest.raises(ConfigurationError, match="this is no report of puma-hub report or compare"):
        Gate(min_users=1).judge(report)


def test_a_report_of_a_newer_version() -> None:
    with pytest.raises(ConfigurationError, match="has format 7"):
        Gate(min_users=1).judge(made(format_version=7))


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, "needs a condition: min_retention, max_worse_share"),
        ({"by": "interval"}, "needs a condition"),
        ({"min_users": 10, "by": "luck"}, "estimate or interval, got 'luck'"),
        ({"min_users": 0}, "min_users must be a whole number >= 1"),
        ({"min_rows": 10.5}, "min_rows must be a whole number"),
        ({"max_worse_share": 10}, "max_worse_share must be a number from 0 to 1, got 10"),
        ({"min_correlation": 1.5}, "from -1 to 1"),
        ({"max_drift": -0.1}, "from 0 to inf"),
        ({"min_retention": math.nan}, "min_retention must be a number"),
        ({"max_worsening": True}, "max_worsening must be a number"),
        ({"max_worsening": "0.1"}, "max_worsening must be a number"),
    ],
)
def test_conditions_that_cannot_be_met_or_missed(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Gate(**limits)


def test_real_reports_of_both_commands() -> None:
    before, after = controls(simulated(np.random.default_rng(0), 60))
    report = report_of_predictions(before, after, np.zeros(60, np.int64), resamples=200).data
    compared = compare_in_clusters(before, after, np.zeros(60, np.int64))
    limits: dict[str, Any] = {
        "min_retention": 0.5,
        "max_worse_share": 0.3,
        "max_worsening": 0.2,
        "min_correlation": 0.5,
        "max_drift": 0.2,
        "min_users": 60,
        "min_rows": 100,
    }
    for by in ("estimate", "interval"):
        verdict = Gate(**limits, by=by).judge(report)
        assert verdict.passed, verdict
    outcomes = {one.condition: one for one in Gate(**limits).judge(compared).outcomes}
    ours = {one.condition: one for one in Gate(**limits).judge(report).outcomes}
    for name in ("min_retention", "max_worsening", "min_users", "min_rows"):
        assert outcomes[name].passed and outcomes[name].value == pytest.approx(ours[name].value)
    for name in ("max_worse_share", "min_correlation", "max_drift"):
        assert not outcomes[name].passed and "make one with puma-hub report" in str(outcomes[name])
    by_interval = Gate(min_retention=0.1, min_users=60, by="interval").judge(compared)
    assert [one.passed for one in by_interval.outcomes] == [False, True]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], str]:
    def save(report: object) -> str:
        path = tmp_path / "report.json"
        path.write_text(report if isinstance(report, str) else json.dumps(report))
        return str(path)

    return save


def test_the_command(saved: Callable[[object], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = tmp_path / "verdict.json"
    gate = ["gate", "--report", saved(made()), "--min-retention", "0.8", "--max-worse-share", "0.1"]
    assert main([*gate, "--json", str(verdict)]) == 0
    assert capsys.readouterr().out == "pass retention >= 0.8: 0.9\npass worse_share <= 0.1: 0.04\n"
    assert json.loads(verdict.read_text())["passed"] is True
    assert main([*gate, "--by", "interval", "--json", str(verdict)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "FAIL retention >= 0.8: 0.7\nFAIL worse_share <= 0.1: 0.12\n" and not printed.err
    assert json.loads(verdict.read_text())["conditions"][0]["value"] == 0.7
    assert main([*gate, "--max-worsening", "-0.01"]) == 1  # it must get better
    before = Path(gate[2]).read_text()
    assert main([*gate, "--json", gate[2]]) == 2 and Path(gate[2]).read_text() == before


@pytest.mark.parametrize(
    ("report", "status", "says"),
    [
        ("{", 1, "is not valid JSON"),
        ("[1]", 1, "must hold a JSON object"),
        ({"rmse": 1}, 2, "no report of puma-hub report"),
        ('{"source": {"metric": "rmse"}, "target": {"metric": "rmse"}, "users": NaN}', 1, ""),
    ],
)
def test_the_command_with_other_files(
    saved: Callable[[object], str],
    report: object,
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["gate", "--report", saved(report), "--min-users", "5"]) == status
    assert says in capsys.readouterr().err


def test_wrong_use(saved: Callable[[object], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--report", saved(made())]) == 2
    assert "needs a condition" in capsys.readouterr().err
    assert main(["gate", "--report", saved(made()), "--max-worse-share", "10"]) == 2
    assert main(["gate", "--report", "nowhere.json", "--min-users", "1"]) == 1
    for wrong in (["--min-users", "0"], ["--min-retention", "much"], ["--by", "luck"], []):
        with pytest.raises(SystemExit) as ended:
            main(["gate", *(["--report", saved(made())] if wrong else []), *wrong])
        assert ended.value.code == 2
