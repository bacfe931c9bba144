"""Conditions that a migration has to meet, for CI."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puma_hub._version import too_new
from puma_hub.directions import lower_is_better
from puma_hub.errors import ConfigurationError, shown
from puma_hub.evaluation.report.migration import FORMAT_VERSION
from puma_hub.limits import MAX_USERS, require_whole

BY = ("estimate", "interval")


@dataclass(frozen=True)
class Outcome:
    """One condition: its ``limit``, the ``value`` it was compared with, and the ``reason`` where there is no value."""

    condition: str
    limit: float
    value: float | None
    passed: bool
    reason: str | None = None

    def __str__(self) -> str:
        sign = ">=" if self.condition.startswith("min_") else "<="
        value = self.reason if self.value is None else f"{self.value:.6g}"
        return f"{'pass' if self.passed else 'FAIL'} {self.condition.partition('_')[2]} {sign} {self.limit:g}: {value}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of each condition, compared ``by`` estimate or interval."""

    by: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "by": self.by, "conditions": [asdict(outcome) for outcome in self.outcomes]}


@dataclass(frozen=True)
class Gate:
    """What a report has to show; conditions that are None are not looked at.

    Args:
        min_retention: of the personal gain, of the main metric.
        max_worse_share: share of users who are clearly worse, beyond what noise alone shows; see
            :func:`puma_hub.evaluation.report.worse.worse`.
        max_worsening: by how much the main metric may be worse on the target, in its own unit and direction: a rise of
            the RMSE, or a fall of the AUC.
        min_correlation: Pearson's, of both systems' predictions.
        max_drift: of the mean prediction, up or down, in the unit of predictions.
        min_users: with rows and a prompt in both banks.
        min_rows: held-out rows of these users.
        by: ``"estimate"``, or ``"interval"`` for the bound of the 95 % interval that is the worse one for the
            condition. Numbers of users and rows are what they are.

    Raises:
        ConfigurationError: there is no condition, or a value cannot be a limit.
    """

    min_retention: float | None = None
    max_worse_share: float | None = None
    max_worsening: float | None = None
    min_correlation: float | None = None
    max_drift: float | None = None
    min_users: int | None = None
    min_rows: int | None = None
    by: str = BY[0]

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ConfigurationError(f"a gate judges by {' or '.join(BY)}, got {shown(self.by)}")
        if not self.limits:
            raise ConfigurationError(f"a gate needs a condition: {', '.join(CONDITIONS)}")
        for name, limit in self.limits.items():
            if name in ("min_users", "min_rows"):
                require_whole(limit, name, MAX_USERS)
                continue
            least, most = _RANGES.get(name, (-math.inf, math.inf))
            if not _is_number(limit) or not least <= limit <= most:
                raise ConfigurationError(f"{name} must be a number from {least:g} to {most:g}, got {shown(limit)}")

    @property
    def limits(self) -> dict[str, Any]:
        """The conditions that are looked at, with their limits."""
        return {name: limit for name in CONDITIONS if (limit := getattr(self, name)) is not None}

    def judge(self, report: Mapping[str, Any]) -> Verdict:
        """Compare a report with the conditions.

        A condition whose value the report lacks fails, with the reason. Reports of ``compare_banks`` have no intervals,
        and neither noise, correlation nor drift.

        Args:
            report: the data of :func:`puma_hub.evaluation.migration_report`, or what ``compare_banks`` returned.

        Raises:
            ConfigurationError: it is no such report.
        """
        _require_report(report)
        return Verdict(self.by, tuple(self._outcome(name, limit, report) for name, limit in self.limits.items()))

    def _outcome(self, name: str, limit: float, report: Mapping[str, Any]) -> Outcome:
        at_least = name.startswith("min_")
        try:
            found = _VALUES[name](report)
        except (KeyError, TypeError, AttributeError):
            return Outcome(name, limit, None, False, "the report does not hold it; make one with puma-hub report")
        value, reason = found, "it is not defined for these rows, see the notes of the report"
        if isinstance(found, Mapping):
            value = found.get("estimate")
            if self.by == "interval" and _is_number(value):
                value = found.get("low" if at_least else "high")
                reason = f"its interval has no {'lower' if at_least else 'upper'} bound; it needs more users"
        if not _is_number(value):
            return Outcome(name, limit, None, False, reason)
        number = float(value)
        return Outcome(name, limit, number, number >= limit if at_least else number <= limit)


def _is_number(value: object) -> bool:
    """Whether this is a finite number that a float can hold."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _require_report(report: object) -> None:
    """Refuse what is no report of two banks.

    Raises:
        ConfigurationError: it is none, or of a newer format.
    """
    sides = [report.get(side) for side in ("source", "target")] if isinstance(report, Mapping) else []
    if not sides or not all(isinstance(side, Mapping) and isinstance(side.get("metric"), str) for side in sides):
        raise ConfigurationError(
            "this is no report of puma-hub report or compare: it has no metric of source and target; give the file "
            "that --json wrote"
        )
    assert isinstance(report, Mapping)
    version = report.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ConfigurationError(too_new("this report", shown(version), FORMAT_VERSION, None))


def _figure(report: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A figure of the main metric with its interval; None for a report without intervals."""
    if "figures" not in report:
        return None
    found: Mapping[str, Any] = report["figures"][report["source"]["metric"]][name]
    return found


def _retention(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return _figure(report, "retention") or {"estimate": report["retention"]}


def _worsening(report: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _figure(report, "worsening")
    if found is not None:
        return found
    before, after = (report[side]["own"] for side in ("source", "target"))
    lower = lower_is_better(report["source"]["metric"])
    if lower is None or not (_is_number(before) and _is_number(after)):
        return {"estimate": None}
    return {"estimate": after - before if lower else before - after}


def _drift(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """How far scores move, up or down."""
    drift = report["drift"]["all"]["drift"]
    sizes = {end: abs(value) for end, value in drift.items() if _is_number(value)}
    return {
        "estimate": sizes.get("estimate"),
        "high": max(sizes["low"], sizes["high"]) if {"low", "high"} <= sizes.keys() else None,
    }


_VALUES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "min_retention": _retention,
    "max_worse_share": lambda report: report["worse"]["clearly"]["excess"],
    "max_worsening": _worsening,
    "min_correlation": lambda report: report["agreement"]["pearson"],
    "max_drift": _drift,
    "min_users": lambda report: report["users"],
    "min_rows": lambda report: report["source"]["rows"],
}
CONDITIONS = tuple(_VALUES)
_RANGES = {"max_worse_share": (0.0, 1.0), "min_correlation": (-1.0, 1.0), "max_drift": (0.0, math.inf)}
