"""Whether two systems give the same answers, right or wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_hub.evaluation.report.bootstrap import Bootstrap, of_sums, plain
from puma_hub.evaluation.report.correlation import correlation, correlation_sums
from puma_hub.evaluation.report.gains import rank_correlation
from puma_hub.evaluation.report.paired import PairedRows


def agreement(rows: PairedRows, bootstrap: Bootstrap) -> dict[str, Any]:
    """Of the predictions with own prompts: correlations, the RMSE between them, and how often both decide the same.

    What is decided is the value of the labels that is nearest to a prediction. ``same_decision`` is None for a task
    that does not say which values there are, if the rows have more than a hundred.
    """
    before, after = rows.source["own"], rows.target["own"]
    ours, theirs = rows.decisions(before), rows.decisions(after)
    same = None if ours is None or theirs is None else (ours == theirs).astype(np.float64)
    values = [*correlation_sums(before, after), np.square(after - before), *([] if same is None else [same])]
    sums = rows.sums(*values)

    def of(totals: np.ndarray) -> np.ndarray:
        n = totals[:, :1]
        return np.column_stack([correlation(totals[:, :6]), np.sqrt(totals[:, 6:7] / n), totals[:, 7:] / n])

    names = ("pearson", "rmse_between", "same_decision")[: sums.shape[1] - 5]
    found: dict[str, Any] = plain(bootstrap.intervals(of_sums(sums, of), names))
    return {"same_decision": None, **found, "spearman": rank_correlation(before, after)}
