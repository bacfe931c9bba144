"""A task's metrics of resampled users.

Most metrics follow from a few sums over each user's rows, or from one AUC a user, so that a resample costs one matrix
product. A form is used only if it gives what the task itself computes; other metrics are computed by the task from the
resampled rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from puma_hub.directions import AUC, MAE, QUADRATIC_KAPPA, RMSE, USER_AUC, Metric
from puma_hub.evaluation.report.bootstrap import Statistic, of_sums
from puma_hub.evaluation.report.paired import PairedRows
from puma_hub.tasks.scores import auc_by_user

# Rows in all resamples together, where each resample takes a pass over the rows; and the fewest resamples.
_SORTED, _SCORED, _FEWEST = 200_000_000, 20_000_000, 200
_AT_ONCE = 8_000_000  # numbers in memory

Form = Callable[[PairedRows, Sequence[np.ndarray]], Statistic | None]


def metric_statistic(
    metric: Metric, rows: PairedRows, predictions: Sequence[np.ndarray], known: Sequence[float | None]
) -> Statistic:
    """The metric of each of ``predictions``, for resampled users; ``known`` are its values for the users themselves."""
    form = _FORMS.get(metric.name)
    found = form(rows, predictions) if form is not None else None
    if found is not None:
        expected = np.array([np.nan if value is None else value for value in known])
        if np.allclose(found.once(len(rows.rows)), expected, rtol=1e-7, atol=1e-9, equal_nan=True):
            return found
    return _scored(metric, rows, predictions)


def _rmse(rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic:
    sums = rows.sums(*(np.square(one - rows.labels) for one in predictions))
    return of_sums(np.column_stack([rows.rows, sums]), lambda total: np.sqrt(total[:, 1:] / total[:, :1]))


def _mae(rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic:
    sums = rows.sums(*(np.abs(one - rows.labels) for one in predictions))
    return of_sums(np.column_stack([rows.rows, sums]), lambda total: total[:, 1:] / total[:, :1])


def _user_auc(rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic:
    """The mean over users of their AUC, those of one class left out."""
    values = np.stack([auc_by_user(one, rows.labels, rows.users) for one in predictions], axis=1)
    defined = np.isfinite(values[:, :1])  # by the labels, so the same for all predictions
    sums = np.column_stack([defined, np.where(defined, values, 0.0)])
    return of_sums(sums, lambda total: total[:, 1:] / total[:, :1])


def _auc(rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic | None:
    """The share of pairs of a row of the higher label and one of the lower that are in order; ties count half."""
    if len(np.unique(rows.labels)) != 2:
        return None
    upper = rows.labels == rows.labels.max()
    counts = [tuple(_by_value(one, rows, part) for part in (upper, ~upper)) for one in predictions]
    at_once = max(1, _AT_ONCE // len(rows.labels))

    def of(weights: np.ndarray) -> np.ndarray:
        return np.concatenate([part(weights[start : start + at_once]) for start in range(0, len(weights), at_once)])

    def part(weights: np.ndarray) -> np.ndarray:
        figures = []
        for uppers, lowers in counts:
            above, below = uppers @ weights.T, lowers @ weights.T  # rows of each predicted value, (values, R)
            in_order = (above * (np.cumsum(below, axis=0) - below / 2)).sum(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                figures.append(in_order / (above.sum(axis=0) * below.sum(axis=0)))
        return np.stack(figures, axis=1)

    return Statistic(of, max(_FEWEST, _SORTED // len(rows.labels)))


def _by_value(predictions: np.ndarray, rows: PairedRows, among: np.ndarray) -> sparse.csr_array:
    """How many of the rows marked in ``among`` each user has of each predicted value, the lowest first."""
    values, place = np.unique(predictions, return_inverse=True)
    ones = np.ones(int(among.sum()))
    return sparse.coo_array((ones, (place[among], rows.users[among])), shape=(len(values), len(rows.rows))).tocsr()


def _kappa(rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic | None:
    """Cohen's kappa with quadratic weights: ``1 - E(a - b)^2`` over the same with a and b of different rows."""
    actual = rows.decisions(rows.labels)
    if actual is None:
        return None
    b, sums = actual.astype(np.float64), [rows.rows]
    for one in predictions:
        a = np.asarray(rows.decisions(one), np.float64)
        sums += [*rows.sums(a, b, a * a, b * b, a * b).T]

    def of(total: np.ndarray) -> np.ndarray:
        n, figures = total[:, 0], []
        for start in range(1, total.shape[1], 5):
            a, b, aa, bb, ab = total[:, start : start + 5].T
            apart = aa + bb - 2 * a * b / n
            figures.append(np.where(apart > 0, 1 - (aa + bb - 2 * ab) / apart, np.nan))
        return np.stack(figures, axis=1)

    return of_sums(np.column_stack(sums), of)


def _scored(metric: Metric, rows: PairedRows, predictions: Sequence[np.ndarray]) -> Statistic:
    """The task's own scores of the resampled rows; a user who is drawn twice is two users."""
    starts, users = np.cumsum(rows.rows) - rows.rows, np.arange(len(rows.rows))
    names = [str(number) for number in users]

    def one(weights: np.ndarray) -> list[float]:
        drawn = np.repeat(users, weights.astype(np.int64))
        sizes = rows.rows[drawn]
        copies = np.repeat(np.arange(len(drawn)), sizes)
        taken = np.arange(len(copies)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[drawn][copies]
        of_row, labels = [names[copy] for copy in copies.tolist()], rows.labels[taken]
        found = [rows.task.scores(values[taken], labels, of_row)[metric.name] for values in predictions]
        return [np.nan if value is None else value for value in found]

    return Statistic(lambda weights: np.array([one(row) for row in weights]), max(_FEWEST, _SCORED // len(rows.labels)))


_FORMS: dict[str, Form] = {
    RMSE.name: _rmse,
    MAE.name: _mae,
    USER_AUC.name: _user_auc,
    AUC.name: _auc,
    QUADRATIC_KAPPA.name: _kappa,
}
