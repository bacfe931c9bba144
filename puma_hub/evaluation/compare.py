"""Two banks side by side, and the controls that tell whether anything personal was moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from sklearn.cluster import KMeans

from puma_hub.bank import PromptBank
from puma_hub.errors import MismatchError
from puma_hub.evaluation.evaluate import HeldOut, scores
from puma_hub.scorer import PersonalizedLM

_CLUSTERS = 5
_LOWER_IS_BETTER = {"rmse": True, "user_auc": False}


def controls(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset,
    users: Sequence[str] | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Own prompts against one mean prompt for all and against prompts shuffled among users.

    Args:
        interactions: held-out rows.
        users: whose rows count, for instance those an adapter never saw; all users of the bank by default. The
            mean prompt is the whole bank's; prompts are shuffled among these users.

    Returns:
        The main metric for ``own``, ``mean`` and ``shuffled``, and ``gain``, by how much own beats mean
        (positive is better for either direction of the metric).
    """
    chosen = bank if users is None else bank.select(list(users))
    held_out = HeldOut.build(lm, chosen, interactions)
    prompts = chosen.prompts
    mean = np.broadcast_to(bank.prompts.mean(axis=0, dtype=np.float64).astype(np.float32), prompts.shape)
    order = np.random.default_rng(seed).permutation(len(chosen))
    metric = "rmse" if lm.task.name == "rating" else "user_auc"
    values = {
        name: scores(lm.task, held_out.predict(array, bank.head), held_out.labels, held_out.users)[metric]
        for name, array in (("own", prompts), ("mean", mean), ("shuffled", prompts[order]))
    }
    gain = values["mean"] - values["own"] if _LOWER_IS_BETTER[metric] else values["own"] - values["mean"]
    return {"metric": metric, **values, "gain": gain, "users": len(set(held_out.users)), "rows": len(held_out.rows)}


def compare_banks(
    source_lm: PersonalizedLM,
    source: PromptBank,
    target_lm: PersonalizedLM,
    target: PromptBank,
    interactions: datasets.Dataset,
    *,
    users: Sequence[str] | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Compare a source bank with a migrated (or retrained) target bank on the same held-out rows.

    Args:
        interactions: held-out rows.
        users: whose rows count; the users of both banks by default.

    Returns:
        ``source`` and ``target``: the :func:`controls` of each. ``retention``: the target's personal gain over the
        source's; None where the source has none. ``worse_users``: how many users have a higher error after, with
        the ids of the users under ``worse_user_ids``. ``clusters``: the same error by k-means cluster of the
        source prompts. Errors are root mean squares of prediction minus label.

    Raises:
        MismatchError: the banks share no user, or a bank does not fit its scorer.
    """
    common = [user for user in (users if users is not None else source.user_ids) if user in source and user in target]
    if not common:
        raise MismatchError("the two banks share no user; compare banks of the same users")
    before = controls(source_lm, source, interactions, common, seed)
    after = controls(target_lm, target, interactions, common, seed)
    errors = [
        _errors_by_user(lm, bank.select(common), interactions)
        for lm, bank in ((source_lm, source), (target_lm, target))
    ]
    rated = [user for user in common if user in errors[0]]
    worse = [user for user in rated if errors[1][user][0] > errors[0][user][0]]
    return {
        "source": before,
        "target": after,
        "retention": after["gain"] / before["gain"] if before["gain"] > 0 else None,
        "users": len(rated),
        "worse_users": len(worse),
        "worse_user_ids": worse,
        "clusters": _by_cluster(source, rated, errors, seed),
    }


def _errors_by_user(lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset) -> dict[str, tuple[float, int]]:
    """Mean squared error and number of rows of each user."""
    held_out = HeldOut.build(lm, bank, rows)
    squared = np.square(held_out.predict(bank.prompts, bank.head) - held_out.labels)
    sums: dict[str, list[float]] = {}
    for user, value in zip(held_out.users, squared):
        sums.setdefault(user, []).append(float(value))
    return {user: (float(np.mean(values)), len(values)) for user, values in sums.items()}


def _by_cluster(
    source: PromptBank, users: list[str], errors: list[dict[str, tuple[float, int]]], seed: int
) -> list[dict[str, Any]]:
    prompts = source.prompts[source.rows(users)].reshape(len(users), -1)
    labels = KMeans(min(_CLUSTERS, len(users)), random_state=seed, n_init=1).fit_predict(prompts)
    clusters = []
    for cluster in sorted(set(labels.tolist())):
        members = [user for user, label in zip(users, labels) if label == cluster]
        rows = np.array([errors[0][user][1] for user in members])
        means = [float(np.sqrt(np.average([e[user][0] for user in members], weights=rows))) for e in errors]
        clusters.append({"users": len(members), "rows": int(rows.sum()), "source": means[0], "target": means[1]})
    return clusters
