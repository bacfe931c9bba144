"""By how much scores move: for all users, by how active they are, and by the cluster of their source prompts."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_hub.evaluation.report.bootstrap import Bootstrap, of_sums, plain
from puma_hub.evaluation.report.paired import PairedRows

_DECILES = np.linspace(0.1, 0.9, 9)


def drift(
    rows: PairedRows, activity: np.ndarray, of: str, clusters: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """The mean over rows of the target's prediction minus the source's, with own prompts.

    Args:
        activity: a number of rows of each user ``(U,)``, and ``of`` which rows these are. Users are grouped at its
            deciles; users with the same number are in the same group, so there may be fewer than ten.
        clusters: the cluster of each user ``(U,)``.
    """
    edges = np.unique(np.quantile(activity, _DECILES))
    deciles = np.unique(np.searchsorted(edges, activity), return_inverse=True)[1]
    names, of_user = np.unique(clusters, return_inverse=True)
    groupings = np.zeros(len(activity), dtype=np.int64), deciles, of_user
    found = iter(_groups(rows, np.hstack([_members(grouping) for grouping in groupings]), bootstrap))
    everyone = next(found)
    by_activity = [next(found) for _ in range(deciles.max() + 1)]
    for number, group in enumerate(by_activity):
        theirs = activity[deciles == number]
        group["activity"] = {"from": int(theirs.min()), "to": int(theirs.max())}
    return {
        "all": everyone,
        "by_activity": {"of": of, "groups": by_activity},
        "by_cluster": [{"cluster": int(name) + 1, **one} for name, one in zip(names, found)],
    }


def _members(grouping: np.ndarray) -> np.ndarray:
    """For each user a 1 in the column of the group, numbered from 0: ``(U, groups)``."""
    members: np.ndarray = (grouping[:, None] == np.arange(grouping.max() + 1)).astype(np.float64)
    return members


def _groups(rows: PairedRows, members: np.ndarray, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Users, rows, mean scores and drift of the groups in the columns of ``members (U, groups)``."""
    before, after = rows.source["own"], rows.target["own"]
    size = members.shape[1]
    sums = np.hstack([members * rows.rows[:, None], members * rows.sums(after - before)])
    statistic = of_sums(sums, lambda totals: totals[:, size:] / totals[:, :size])
    drifts = plain(bootstrap.intervals(statistic, tuple(map(str, range(size)))))
    scores = (members.T @ rows.sums(before, after)).tolist()
    counts = (members.T @ rows.rows).tolist()
    return [
        {
            "users": int(members[:, number].sum()),
            "rows": int(counts[number]),
            "source": scores[number][0] / counts[number],
            "target": scores[number][1] / counts[number],
            "drift": drifts[str(number)],
        }
        for number in range(size)
    ]
