"""Comparing two banks, with controls that show whether anything personal was migrated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from puma_hub.bank import PromptBank
from puma_hub.bank.users import user_list
from puma_hub.data.rows import codes
from puma_hub.directions import retention
from puma_hub.errors import InteractionsError, MismatchError, UnknownUserError
from puma_hub.evaluation.evaluate import HeldOut, users_of
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import Metric, Task

_CLUSTERS = 5


def controls(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset,
    users: Sequence[str] | None = None,
    seed: int = 42,
    allow_training_rows: bool = False,
    items: PromptBank | None = None,
) -> dict[str, Any]:
    """Compare own prompts with one mean prompt for all users, and with prompts shuffled among users.

    Args:
        interactions: held-out rows.
        users: users whose rows count, for example users an adapter never saw; all users of the bank by default. The
            mean prompt is that of the whole bank. Prompts are shuffled among these users by a random derangement.
        allow_training_rows: allow rows that the bank was trained on.
        items: the items' prompts, as for :func:`evaluate_bank`; the same for all three.

    Returns:
        The metric with ``own``, ``mean`` and ``shuffled`` prompts, and the ``gain`` of own over mean prompts, positive
        if own prompts are better. The metric is the first main metric of the task that is defined for these rows, such
        as RMSE. Values that are not defined are None, such as ``shuffled`` for a single user. ``notes`` say why.
        ``by_metric`` has the same four values of every metric of the task.

    Raises:
        UnknownUserError: some of ``users`` are not in the bank.
        MismatchError, InteractionsError, NotFiniteError: as for :func:`evaluate_bank`.
    """
    held_out = HeldOut.build(lm, bank, interactions, users=users, allow_training_rows=allow_training_rows, items=items)
    return controls_of(held_out, users, seed)


@dataclass(frozen=True)
class Controls:
    """Predictions of the same held-out rows with own, mean and shuffled prompts.

    ``row_users`` and ``labels`` have one entry for each row. ``predictions`` ``(N,)`` are named ``own``, ``mean`` and,
    if there is more than one user, ``shuffled``. ``own_source_bank`` is what the bank records of its migration.
    """

    task: Task
    row_users: list[str]
    labels: np.ndarray
    predictions: dict[str, np.ndarray]
    own_source_bank: bool | None = None

    @classmethod
    def of(cls, held_out: HeldOut, users: Sequence[str] | None = None, seed: int = 42) -> Controls:
        """Predict the rows of ``users``, by default of all users of the bank.

        Raises:
            UnknownUserError: some of ``users`` are not in the bank.
            InteractionsError: none of ``users`` has a row.
        """
        bank = held_out.bank
        chosen = users_of(bank, users) if users is not None else bank.user_ids
        numbers = held_out.rows_of(chosen)
        if not len(numbers):
            raise InteractionsError(f"none of the {len(chosen)} users has held-out rows; check the user ids")
        row_users = [held_out.users[number] for number in numbers]
        mean_prompt = bank.prompts.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        predictions = {
            "own": held_out.own[numbers],
            "mean": held_out.predict(mean_prompt, np.zeros(len(numbers)), numbers),
        }
        if len(chosen) > 1:
            rows = np.array(bank.rows(chosen))
            other = dict(zip(chosen, rows[derangement(len(rows), seed)].tolist()))
            predictions["shuffled"] = held_out.predict(bank.prompts, [other[user] for user in row_users], numbers)
        own_source_bank = bank.provenance.details.get("own_source_bank")
        return cls(held_out.lm.task, row_users, held_out.labels[numbers], predictions, own_source_bank)

    def report(self) -> dict[str, Any]:
        """The result of :func:`controls`."""
        metrics = {
            name: self.task.scores(array, self.labels, self.row_users) for name, array in self.predictions.items()
        }
        alone = [] if "shuffled" in metrics else ["shuffled is not defined: it needs at least two users"]
        metric = self.task.main_metric(metrics["own"])
        by_metric = {one.name: _with_gain(one, metrics) for one in self.task.metrics}
        return {
            "metric": metric.name,
            **by_metric[metric.name],
            "by_metric": by_metric,
            "users": len(set(self.row_users)),
            "rows": len(self.labels),
            "notes": [*self.task.undefined(metrics["own"]), *alone],
        }

    def errors_by_user(self, name: str = "own") -> dict[str, tuple[float, int]]:
        """Mean squared error and number of rows of each user, with ``name`` prompts."""
        users, ids = codes(pa.chunked_array([pa.array(self.row_users, pa.large_string())]))
        rows = np.bincount(users)
        means = np.bincount(users, np.square(self.predictions[name] - self.labels)) / rows
        return dict(zip(ids, zip(means.tolist(), rows.tolist())))

    def gain_by_user(self) -> dict[str, float]:
        """The root mean squared error with the mean prompt minus that with the own one, of each user."""
        own, mean = self.errors_by_user("own"), self.errors_by_user("mean")
        return {user: float(np.sqrt(mean[user][0]) - np.sqrt(own[user][0])) for user in own}


def _with_gain(metric: Metric, metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """A metric with own, mean and shuffled prompts, and the personal gain."""
    values = {"shuffled": None, **{name: figures[metric.name] for name, figures in metrics.items()}}
    own, mean = values["own"], values["mean"]
    gain = None
    if own is not None and mean is not None:
        gain = mean - own if metric.lower_is_better else own - mean
    return {**values, "gain": gain}


def controls_of(held_out: HeldOut, users: Sequence[str] | None = None, seed: int = 42) -> dict[str, Any]:
    """The :func:`controls` of rows that may be partly scored already.

    Raises:
        UnknownUserError: some of ``users`` are not in the bank.
        InteractionsError: none of ``users`` has a row.
    """
    return Controls.of(held_out, users, seed).report()


def derangement(size: int, seed: int) -> np.ndarray:
    """A random derangement of ``size`` >= 2: a permutation that moves every element. All are equally likely.

    Permutations are drawn until one is a derangement, on average e = 2.7 times.
    """
    generator, places = np.random.default_rng(seed), np.arange(size)
    while True:
        order = generator.permutation(size)
        if not (order == places).any():
            return order


def compare_banks(
    source_lm: PersonalizedLM,
    source: PromptBank,
    target_lm: PersonalizedLM,
    target: PromptBank,
    interactions: datasets.Dataset,
    *,
    users: Sequence[str] | None = None,
    seed: int = 42,
    allow_training_rows: bool = False,
    items: tuple[PromptBank, PromptBank] | None = None,
) -> dict[str, Any]:
    """Compare a source bank with a migrated (or retrained) target bank on the same held-out rows.

    Args:
        interactions: held-out rows.
        users: users whose rows count, if they are in both banks; the users in both banks by default.
        allow_training_rows: allow rows that a bank was trained on.
        items: the items' prompts on the source and on the target, as for :func:`evaluate_bank`.

    Returns:
        A report with these keys:

        - ``source`` and ``target``: the :func:`controls` of each.
        - ``retention``: personal gain on the target / on the source; None if the source has no gain.
        - ``users``: the number of users with rows and with a prompt in both banks. ``users_in_one_bank`` and
          ``users_without_rows`` are left out.
        - ``worse_users``: the number of users with a higher error on the target; ``worse_user_ids``: their ids.
        - ``clusters``: the error in each k-means cluster of the source prompts. Errors are root mean squares of
          prediction minus label.
        - ``own_source_bank``: whether the target bank was migrated from the same training that its adapter was trained
          on; None if not known.

    Raises:
        MismatchError: the banks share no user, a bank does not fit its scorer, or the scorers' tasks differ.
        UnknownUserError: some of ``users`` are in neither bank.
        InteractionsError, NotFiniteError: as for :func:`evaluate_bank`.
    """
    sides = Sides.of(
        source_lm,
        source,
        target_lm,
        target,
        interactions,
        users=users,
        seed=seed,
        allow_training_rows=allow_training_rows,
        items=items,
    )
    return compare_controls(source, sides.before, sides.after, seed) | sides.left_out


@dataclass(frozen=True)
class Sides:
    """Predictions of the same held-out rows with the banks of two LLMs.

    ``left_out``: the numbers of users left out, as in :func:`compare_banks`. ``rows_left_out``: rows of other
    users. ``trained_on``: for source and target, rows that the bank was trained on.
    """

    before: Controls
    after: Controls
    left_out: dict[str, int]
    rows_left_out: int
    trained_on: tuple[int, int]

    @classmethod
    def of(
        cls,
        source_lm: PersonalizedLM,
        source: PromptBank,
        target_lm: PersonalizedLM,
        target: PromptBank,
        interactions: datasets.Dataset,
        *,
        users: Sequence[str] | None = None,
        seed: int = 42,
        allow_training_rows: bool = False,
        items: tuple[PromptBank, PromptBank] | None = None,
    ) -> Sides:
        """Predict the rows; arguments and errors are those of :func:`compare_banks`."""
        tasks = source_lm.task, target_lm.task
        if tasks[0] != tasks[1]:
            raise MismatchError(f"the scorers' tasks differ, {tasks[0]} and {tasks[1]}; give both the same task")
        either = list(dict.fromkeys(user_list(users) if users is not None else [*source.user_ids, *target.user_ids]))
        strange = sum(user not in source and user not in target for user in either)
        if strange:
            raise UnknownUserError(f"{strange} of {len(either)} users are in neither bank; leave them out")
        common = [user for user in either if user in source and user in target]
        if not common:
            raise MismatchError("the two banks share no user; compare banks of the same users")
        rows = [
            HeldOut.build(lm, bank, interactions, users=common, allow_training_rows=allow_training_rows, items=theirs)
            for lm, bank, theirs in zip((source_lm, target_lm), (source, target), items or (None, None))
        ]
        before, after = (Controls.of(side, common, seed) for side in rows)
        left_out = {
            "users_in_one_bank": len(either) - len(common),
            "users_without_rows": len(common) - len(set(before.row_users)),
        }
        return cls(before, after, left_out, rows[0].left_out, (rows[0].trained_on, rows[1].trained_on))


def compare_controls(source: PromptBank, before: Controls, after: Controls, seed: int = 42) -> dict[str, Any]:
    """Compare the predictions of the same rows on source and target LLM.

    Args:
        source: the source bank, whose prompts are clustered.
        seed: of the clusters.

    Returns:
        The result of :func:`compare_banks` without the numbers of users left out.
    """
    return compare_in_clusters(before, after, prompt_clusters(source, rated_users(before, after), seed))


def rated_users(before: Controls, after: Controls) -> list[str]:
    """The users with rows on both sides, in the order of their first rows."""
    there = set(after.row_users)
    return [user for user in dict.fromkeys(before.row_users) if user in there]


def compare_in_clusters(before: Controls, after: Controls, clusters: np.ndarray) -> dict[str, Any]:
    """The result of :func:`compare_controls`, with the cluster ``(U,)`` of each of the :func:`rated_users`."""
    reports = before.report(), after.report()
    errors = [before.errors_by_user(), after.errors_by_user()]
    rated = rated_users(before, after)
    worse = [user for user in rated if errors[1][user][0] > errors[0][user][0]]
    return {
        "source": reports[0],
        "target": reports[1],
        "retention": retention(reports[0]["gain"], reports[1]["gain"]),
        "own_source_bank": after.own_source_bank,
        "users": len(rated),
        "worse_users": len(worse),
        "worse_user_ids": worse,
        "clusters": _by_cluster(rated, errors, clusters),
    }


def prompt_clusters(source: PromptBank, users: list[str], seed: int) -> np.ndarray:
    """The k-means cluster int64 ``(U,)`` of each user's source prompt: five, or fewer for fewer distinct prompts."""
    prompts = source.prompts[source.rows(users)].reshape(len(users), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct prompts than clusters
        labels: np.ndarray = KMeans(min(_CLUSTERS, len(users)), random_state=seed, n_init=1).fit_predict(prompts)
    return labels.astype(np.int64)


def _by_cluster(
    users: list[str], errors: list[dict[str, tuple[float, int]]], labels: np.ndarray
) -> list[dict[str, Any]]:
    clusters = []
    for cluster in sorted(set(labels.tolist())):
        members = [user for user, label in zip(users, labels) if label == cluster]
        rows = np.array([errors[0][user][1] for user in members])
        means = [float(np.sqrt(np.average([e[user][0] for user in members], weights=rows))) for e in errors]
        clusters.append({"users": len(members), "rows": int(rows.sum()), "source": means[0], "target": means[1]})
    return clusters
