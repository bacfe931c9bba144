"""The report on a migration: everything that is computed from held-out rows on both sides."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.users import user_list
from puma_hub.data import check_interactions
from puma_hub.data.rows import require_dataset, texts
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.evaluation.compare import Controls, Sides, compare_in_clusters, prompt_clusters, rated_users
from puma_hub.evaluation.gain_picture import paired_gains
from puma_hub.evaluation.report.agreement import agreement
from puma_hub.evaluation.report.bootstrap import LEVEL, RESAMPLES, Bootstrap
from puma_hub.evaluation.report.calibration import calibration
from puma_hub.evaluation.report.drift import drift
from puma_hub.evaluation.report.figures import figures
from puma_hub.evaluation.report.gains import gains
from puma_hub.evaluation.report.origin import adapter_cost, lineage_steps, model_facts
from puma_hub.evaluation.report.page import save_page
from puma_hub.evaluation.report.paired import PairedRows
from puma_hub.evaluation.report.worse import FEWEST_ROWS, worse
from puma_hub.evaluation.reported_users import ReportedUsers
from puma_hub.scorer import PersonalizedLM
from puma_hub.training.report import versions

KIND, FORMAT_VERSION = "puma_hub migration report", 1
_FEW_USERS = 20


@dataclass(frozen=True)
class MigrationReport:
    """A report as plain ``data``, and the personal gains ``(U, 2)`` of users without names, for the page's picture."""

    data: dict[str, Any]
    gains: np.ndarray

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML page, which needs nothing else.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            StorageError: there is a file of somebody else's, or the path cannot be written.
        """
        save_page(self.data, self.gains, path)


def migration_report(
    source_lm: PersonalizedLM,
    source: PromptBank,
    target_lm: PersonalizedLM,
    target: PromptBank,
    interactions: datasets.Dataset | Mapping[str, datasets.Dataset],
    *,
    users: Sequence[str] | None = None,
    trained_users: Sequence[str] | None = None,
    seed: int = 42,
    resamples: int = RESAMPLES,
    allow_training_rows: bool = False,
    items: tuple[PromptBank, PromptBank] | None = None,
    adapter: PumaAdapter | None = None,
) -> MigrationReport:
    """Report on a migration from held-out rows of users in both banks.

    Args:
        interactions: held-out rows, or the splits ``train`` and ``validation``; with ``train``, users are grouped by
            the number of their training rows, and else by that of their held-out rows.
        users: users whose rows count; all users in both banks by default.
        trained_users: the users that the adapter trained on, who are left out.
        seed: of the shuffled prompts, the clusters, the resamples of users and the flipped signs.
        resamples: of users, for intervals of 95 %.
        items: the items' prompts on the source and on the target.
        adapter: the one that migrated the bank, for its cost.

    Returns:
        The report. Its ``data`` have all that :func:`puma_hub.compare_banks` returns, but for the ids of users, and:

        - ``figures``: each metric with own, mean and shuffled prompts, the personal gain, the worsening and the
          retention, with intervals over users; ``bootstrap`` says how they were made.
        - ``gains``: how users' personal gains on both sides go together.
        - ``agreement``: whether both systems give the same answers.
        - ``drift``: by how much scores move, by activity and by cluster.
        - ``worse``: how many users get worse and by how much, beside what noise alone would show.
        - ``calibration``: whether predictions mean what they say.
        - ``reported_users``: which users these are, in numbers and words.
        - ``cost``, ``lineage``, ``models``, ``versions``, ``notes``.

    Raises:
        ConfigurationError: ``resamples`` or ``seed`` are out of range.
        SelectionError: none of ``trained_users`` is in a bank, or nobody is left.
        MismatchError: the adapter is for other LLMs, or trained on more users than ``trained_users`` has.
        MismatchError, UnknownUserError, InteractionsError, NotFiniteError: as for :func:`puma_hub.compare_banks`.
    """
    splits = interactions if isinstance(interactions, Mapping) else {"validation": require_dataset(interactions)}
    if "validation" not in splits:
        raise InteractionsError(f"a report needs the split validation, found {', '.join(splits) or 'none'}")
    Bootstrap(1, resamples, seed)
    cost = None if adapter is None else adapter_cost(adapter, source, target)
    if trained_users is not None:
        _require_whole(trained_users, cost)
    reported = ReportedUsers.of([*source.user_ids, *target.user_ids], users, trained_users)
    sides = Sides.of(
        source_lm,
        source,
        target_lm,
        target,
        splits["validation"],
        users=reported.user_ids,
        seed=seed,
        allow_training_rows=allow_training_rows,
        items=items,
    )
    return report_of_sides(
        sides, source, target, reported, train=splits.get("train"), cost=cost, seed=seed, resamples=resamples
    )


def report_of_sides(
    sides: Sides,
    source: PromptBank,
    target: PromptBank,
    reported: ReportedUsers,
    *,
    train: datasets.Dataset | None = None,
    cost: dict[str, Any] | None = None,
    seed: int = 42,
    resamples: int = RESAMPLES,
) -> MigrationReport:
    """The report of :func:`migration_report` from predictions that are there already.

    Args:
        sides: the predictions for the ``reported`` users.
        train: the training rows, which users are grouped by the number of.
        cost: what :func:`puma_hub.evaluation.report.origin.cost_facts` tells of the adapter.
    """
    rated, activity = rated_users(sides.before, sides.after), None
    if train is not None:
        counted = Counter(texts(check_interactions(train), "user_id"))
        activity = np.array([counted[user] for user in rated], dtype=np.int64)
    clusters = prompt_clusters(source, rated, seed)
    report = report_of_predictions(
        sides.before, sides.after, clusters, training_rows=activity, seed=seed, resamples=resamples
    )
    trained_on = dict(zip(("source", "target"), sides.trained_on))
    notes = [
        f"{count} of these rows were trained on by the {side} bank: its errors are too small"
        for side, count in trained_on.items()
        if count
    ]
    learnt = _trained(cost)
    if learnt and reported.trained is None:
        notes.append(f"the adapter trained on {learnt:,} users: where they are among these, figures may be too good")
    return replace(
        report,
        data={
            **report.data,
            **sides.left_out,
            "reported_users": reported.facts(),
            "rows_left_out": sides.rows_left_out,
            "rows_trained_on": trained_on,
            "models": {"source": model_facts(source.model), "target": model_facts(target.model)},
            "cost": cost,
            "lineage": lineage_steps(target.provenance.lineage),
            "notes": [*report.data["notes"], *notes],
        },
    )


def _trained(cost: Mapping[str, Any] | None) -> int | None:
    """The number of users that the adapter trained on, where it is known."""
    return cost["training"]["users"] if cost and cost["training"] else None


def _require_whole(trained: Sequence[str], cost: Mapping[str, Any] | None) -> None:
    """Refuse a list that cannot hold all users whom the adapter trained on.

    Raises:
        MismatchError: the adapter trained on more users.
    """
    learnt, listed = _trained(cost), len(set(user_list(trained)))
    if learnt and listed < learnt:
        raise MismatchError(
            f"the list of training users has {listed}, and the adapter trained on {learnt}; give the whole list that "
            "it was trained with"
        )


def report_of_predictions(
    before: Controls,
    after: Controls,
    clusters: np.ndarray,
    *,
    training_rows: np.ndarray | None = None,
    seed: int = 42,
    resamples: int = RESAMPLES,
) -> MigrationReport:
    """The part of a report that follows from predictions of the same rows on both sides.

    Args:
        clusters: the number of each user's cluster int64 ``(U,)``, in the order of the users' first rows.
        training_rows: the number of each user's training rows int64 ``(U,)``; else users are grouped by the number of
            their held-out rows.

    Raises:
        MismatchError: rows, labels or tasks of the two sides differ.
        ConfigurationError: ``clusters`` or ``training_rows`` are not of these users.
        InteractionsError, NotFiniteError: labels or predictions are not finite.
    """
    rows = PairedRows.of(before, after)
    users = len(rows.rows)
    for name, values in (("clusters", clusters), ("training_rows", training_rows)):
        if values is not None and np.shape(values) != (users,):
            raise ConfigurationError(f"{name} must have one number for each of {users} users, got {np.shape(values)}")
    bootstrap = Bootstrap(users, resamples, seed)
    compared = compare_in_clusters(before, after, clusters)
    del compared["worse_user_ids"]  # ids are personal
    by_user = paired_gains(before, after)
    activity, of = (rows.rows, "held-out rows") if training_rows is None else (training_rows, "training rows")
    metric = rows.task.main_metric({name: one["own"] for name, one in compared["source"]["by_metric"].items()})
    data = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "task": {"name": rows.task.name, "title": rows.task.title, "described": rows.task.described()},
        "metric": metric.name,
        "lower_is_better": metric.lower_is_better,
        **compared,
        "rows": len(rows.labels),
        "figures": figures(rows, compared, bootstrap),
        "gains": gains(by_user, bootstrap),
        "agreement": agreement(rows, bootstrap),
        "drift": drift(rows, activity, of, clusters, bootstrap),
        "worse": worse(rows, seed),
        "calibration": calibration(rows, bootstrap),
        "bootstrap": {
            "unit": "users",
            "interval": "expanded percentile",
            "level": LEVEL,
            "resamples": resamples,
            "seed": seed,
        },
        "versions": versions(),
    }
    return MigrationReport(data | {"notes": _notes(rows, data)}, by_user)


def _notes(rows: PairedRows, data: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of these rows, a sentence each."""
    users = len(rows.rows)
    notes = [*dict.fromkeys([*data["source"]["notes"], *data["target"]["notes"]])]
    if users < 2:
        notes.append("one user has no intervals: they are about which users are drawn")
    elif users < _FEW_USERS:
        notes.append(f"with {users} users, intervals are rough")
    if data["source"]["gain"] is not None and data["retention"] is None:
        notes.append("retention is not defined: the source has no personal gain")
    elif users > 1 and None in (data["figures"][data["metric"]]["retention"][end] for end in ("low", "high")):
        notes.append("retention has no interval: the source's personal gain is not clearly above 0")
    few = int((rows.rows < FEWEST_ROWS).sum())
    if few:
        notes.append(
            f"{few} of {users} users have fewer than {FEWEST_ROWS} rows, which cannot show who is clearly worse"
        )
    return notes
