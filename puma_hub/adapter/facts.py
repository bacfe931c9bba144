"""What is known of an adapter beyond its weights: evaluation, training, license. Kept beside it as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

from puma_hub.directions import lower_is_better, retention
from puma_hub.errors import CheckpointError, ConfigurationError, first_line, shown
from puma_hub.extensions import BASELINES
from puma_hub.hub.card_parts import require_license
from puma_hub.storage import read_json, write_json

FACTS_FILE = "adapter_facts.json"

_PREDICTIONS = {
    "migrated": "migrated prompts on the target LLM",
    "migrated_mean": "one mean migrated prompt for all",
    "migrated_shuffled": "migrated prompts shuffled among users",
    "source": "source prompts on the source LLM",
    "teacher": "sharpened source predictions (teacher)",
    "source_mean": "one mean source prompt for all",
    "source_shuffled": "source prompts shuffled among users",
    "retrained": "retrained from scratch on the target",
    "random": "untrained adapter, same head",
}
_REFERENCES = ("retrained", "source")
_MOST, _LEAST = 1e9, 1e-9  # of figures, and of those that others are divided by


def prediction_labels() -> dict[str, str]:
    """Whose predictions figures can be of, in words and in the order of cards and tables: prompts, then baselines."""
    taken = sorted(_PREDICTIONS.keys() & BASELINES.keys())
    if taken:
        raise ConfigurationError(
            f"a baseline cannot be named {', '.join(taken)}: prompts go by that; choose another name"
        )
    return _PREDICTIONS | {name: f"{baseline.about} (no LLM)" for name, baseline in BASELINES.items()}


@dataclass(frozen=True)
class Evaluation:
    """Figures on the same held-out rows: ``metrics[prediction][metric]``, predictions as in :func:`prediction_labels`.

    ``own_source_bank``: whether the migrated bank comes from the training the adapter was trained on. It is false for
    the bank of somebody who downloads the adapter, and None where it is not known.

    Raises:
        ConfigurationError: a prediction is unknown, a figure is not finite, or nothing is of migrated prompts.
    """

    dataset: str
    split: str
    rows: int
    users: int
    metrics: Mapping[str, Mapping[str, float]]
    own_source_bank: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.own_source_bank, (bool, type(None))):
            raise ConfigurationError(f"own_source_bank is true, false or unknown, got {shown(self.own_source_bank)}")
        if not isinstance(self.dataset, str) or not isinstance(self.split, str):
            raise ConfigurationError(f"dataset and split are names, got {shown((self.dataset, self.split))}")
        for name in ("rows", "users"):
            object.__setattr__(self, name, _number(getattr(self, name), name, Integral))
        if not isinstance(self.metrics, Mapping) or not all(isinstance(v, Mapping) for v in self.metrics.values()):
            raise ConfigurationError(f"metrics must be a mapping of mappings, got {shown(self.metrics)}")
        known = prediction_labels()
        unknown = [name for name in self.metrics if name not in known]
        if unknown:
            raise ConfigurationError(f"figures of unknown predictions {shown(unknown)}; known are {', '.join(known)}")
        if not self.metrics.get("migrated"):
            raise ConfigurationError("an adapter's evaluation needs figures of its migrated prompts")
        # Plain floats in a fixed order: NumPy's would not survive YAML, and cards are stable.
        ordered = {
            name: {
                str(metric): float(_number(value, f"the figures of {name}", Real))
                for metric, value in self.metrics[name].items()
            }
            for name in known
            if name in self.metrics
        }
        object.__setattr__(self, "metrics", ordered)

    @classmethod
    def from_reports(cls, dataset: str, split: str, reports: Mapping[str, Mapping[str, Any]]) -> Evaluation:
        """From the reports of ``evaluate_bank`` by prediction, such as ``migrated``, ``source`` and ``retrained``.

        Raises:
            ConfigurationError: the reports are of different rows, or are not such reports.
        """
        sizes = {name: (report.get("rows"), report.get("users")) for name, report in reports.items()}
        first: tuple[Any, Any] = next(iter(sizes.values()), (None, None))
        empty = [name for name, report in reports.items() if not report.get("metrics")]
        if not reports or empty or any(size != first for size in sizes.values()):
            raise ConfigurationError(
                f"figures are compared on the same rows only; (rows, users) of the reports are {shown(sizes)}; "
                "evaluate each bank on the same interactions"
            )
        try:
            metrics = {name: _metrics(report["metrics"]) for name, report in reports.items()}
            for report in reports.values():
                metrics |= {name: _metrics(values) for name, values in report.get("baselines", {}).items()}
        except (AttributeError, TypeError) as error:
            raise ConfigurationError("this is no report of puma-hub evaluate: its metrics are no mapping") from error
        return cls(dataset, split, first[0], first[1], metrics, reports.get("migrated", {}).get("own_source_bank"))

    @classmethod
    def from_comparison(cls, dataset: str, split: str, report: Mapping[str, Any]) -> Evaluation:
        """From the report of ``compare_banks``: own, mean and shuffled prompts on both sides.

        Raises:
            ConfigurationError: it is not such a report.
        """
        try:
            metric = report["target"]["metric"]
            metrics = {
                side + end: {metric: report[part][name]}
                for side, part in (("migrated", "target"), ("source", "source"))
                for end, name in (("", "own"), ("_mean", "mean"), ("_shuffled", "shuffled"))
                if report[part][name] is not None  # prompts cannot be shuffled among one user
            }
            own = report.get("own_source_bank")
            return cls(dataset, split, report["target"]["rows"], report["users"], metrics, own)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"this is no report of puma-hub compare: {shown(str(error))}") from error

    @property
    def loss(self) -> float | None:
        """Relative loss of quality: against retrained prompts, or else against the source's; 0 if nothing is lost.

        Of the first metric that both have, the task's main one; None where there is nothing to compare with.
        """
        for reference in _REFERENCES:
            for metric, ours in self.metrics["migrated"].items():
                lower = lower_is_better(metric)
                theirs = self.metrics.get(reference, {}).get(metric)
                if lower is not None and theirs is not None and ours > 0 and theirs > _LEAST:
                    return max(0.0, ours / theirs - 1 if lower else 1 - ours / theirs)
        return None

    @property
    def retention(self) -> float | None:
        """The personal gain on the target over that on the source; None where it is unknown or there was none."""
        for metric in self.metrics["migrated"]:
            lower = lower_is_better(metric)
            if lower is None:
                continue
            names = ("source", "source_mean", "migrated", "migrated_mean")
            values = [self.metrics.get(name, {}).get(metric) for name in names]
            own, mean, moved, moved_mean = (math.nan if value is None else value for value in values)
            sign = 1 if lower else -1
            kept = retention(sign * (mean - own), sign * (moved_mean - moved))
            if kept is not None:
                return kept
        return None


_TRAINING: dict[str, type] = {
    **dict.fromkeys(("users", "of_users", "samples", "seed"), Integral),
    **dict.fromkeys(("seconds", "time_ratio", "flops_ratio"), Real),
    **dict.fromkeys(("selection", "data"), str),
}


@dataclass(frozen=True)
class Training:
    """How an adapter was trained. ``time_ratio`` and ``flops_ratio``: cost of retraining all users / of the adapter.

    Raises:
        ConfigurationError: a field is of another kind, not finite or negative.
    """

    users: int
    of_users: int | None = None
    selection: str | None = None
    data: str | None = None
    samples: int | None = None
    seconds: float | None = None
    seed: int | None = None
    time_ratio: float | None = None
    flops_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, kind in _TRAINING.items():
            value = getattr(self, name)
            if value is None and name != "users":
                continue
            if kind is str:
                if not isinstance(value, str):
                    raise ConfigurationError(f"{name} of the training must be text, got {shown(value)}")
            else:
                object.__setattr__(self, name, _number(value, f"{name} of the training", kind))


@dataclass(frozen=True)
class AdapterFacts:
    """What a card says beyond the adapter itself.

    ``license``: an identifier of the Hub, such as ``apache-2.0``; never guessed. ``intended_use``: in own words.

    Raises:
        ConfigurationError: the license is not such an identifier.
    """

    evaluations: tuple[Evaluation, ...] = ()
    training: Training | None = None
    license: str | None = None
    intended_use: str | None = None

    def __post_init__(self) -> None:
        require_license(self.license)
        if not isinstance(self.intended_use, (str, NoneType)):
            raise ConfigurationError(f"intended_use must be text, got {shown(self.intended_use)}")

    @property
    def loss(self) -> float | None:
        """The largest loss of all evaluations; datasets are comparable because it is relative."""
        return max((e.loss for e in self.evaluations if e.loss is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"evaluations": [asdict(evaluation) for evaluation in self.evaluations]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AdapterFacts:
        """Rebuild from :meth:`to_dict`; unknown keys are left out.

        Raises:
            CheckpointError: a part is missing or of another type.
        """
        try:
            evaluations = tuple(_build(Evaluation, item) for item in data.get("evaluations") or ())
            training = _build(Training, data["training"]) if data.get("training") else None
            return cls(evaluations, training, data.get("license"), data.get("intended_use"))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the facts of an adapter are malformed: {first_line(error)}; make the card again"
            ) from error

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> AdapterFacts | None:
        """The facts kept in an adapter's folder, or None where there are none."""
        path = Path(folder) / FACTS_FILE
        return cls.from_dict(read_json(path)) if path.is_file() else None

    def write(self, folder: str | os.PathLike[str]) -> None:
        write_json(Path(folder) / FACTS_FILE, self.to_dict())


def _number(value: object, what: str, kind: type) -> Any:
    """A plain number, if ``value`` is one of this kind, finite and not beyond all measure; whole ones from 0 on."""
    whole = kind is Integral
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigurationError(f"{what} must be a {'whole ' if whole else ''}number, got {shown(value)}")
    found: Any = value
    if not (0 <= found < 2**63 if whole else abs(found) <= _MOST):
        raise ConfigurationError(f"{what} must be finite and of a usual size, got {shown(value)}; evaluate again")
    return int(found) if whole else float(found)


def _build(kind: Any, data: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in data.items() if key in known})


def _metrics(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
