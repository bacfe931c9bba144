"""Several sources as one teacher: the mean of their predictions, or the best one's."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import datasets
import numpy as np
import pyarrow as pa
import torch

from puma_hub.data import of_users
from puma_hub.data.biases import offsets_of
from puma_hub.data.rows import codes, column, numbers
from puma_hub.errors import ConfigurationError, InteractionsError
from puma_hub.tasks import Task, default_task
from puma_hub.tasks.owners import ITEMS, USERS
from puma_hub.training.teacher import (
    PREDICTION,
    PROBABILITIES,
    PROMPT,
    TEACHER_COLUMNS,
    prompts_of,
    source_predictions,
    with_prompts,
)

logger = logging.getLogger(__name__)

_ROWS_COMPARED, _SAME = 256, 0.9  # independent noise of so many rows is never so alike


def combine_teachers(teachers: Sequence[datasets.Dataset], how: str | Sequence[float] = "mean") -> datasets.Dataset:
    """Return the rows that all sources were asked about, with one prediction each, for an adapter of several sources.

    Rows of users or items that some bank lacks are left out. Prompts that the sources were asked with stand side by
    side, in the order of the sources. Their noise has to be independent: ask each source with another ``seed``.

    Args:
        teachers: the rows of :func:`puma_hub.with_source_predictions` by each source, of the same interactions and in
            the adapter's source order.
        how: ``"mean"``, or a weight for each source, such as those of :func:`best_teacher`; they are divided by their
            sum.

    Raises:
        ConfigurationError: ``how`` is neither, or there is no source.
        InteractionsError: the sources were asked about other rows, of another task, or only some of them with noise.
    """
    weights = _weights(how, len(teachers))
    alike = _same_rows(teachers)
    answers = {len(rows[PROBABILITIES][0]) for rows in alike}
    if len(answers) > 1:
        raise InteractionsError(f"the sources know {sorted(answers)} answers; ask all of them with the same task")
    parts = [source_predictions(rows, min(answers)) for rows in alike]
    predictions, probabilities = (
        np.tensordot(weights, np.stack([part[number].double().numpy() for part in parts]), 1) for number in (0, 1)
    )
    result = alike[0].remove_columns([name for name in (*TEACHER_COLUMNS, PROMPT) if name in alike[0].column_names])
    result = result.add_column(PREDICTION, predictions).add_column(PROBABILITIES, list(probabilities))
    noisy = [PROMPT in rows.column_names for rows in alike]
    if any(noisy) is not all(noisy):
        raise InteractionsError(
            f"{sum(noisy)} of {len(noisy)} sources were asked with noise; ask all of them with it, or none (noise=0)"
        )
    if not all(noisy):
        return result
    prompts = [prompts_of(rows) for rows in alike]
    shapes = [None if part is None else part.shape[1:] for part in prompts]
    if None in shapes or len({shape[0] for shape in shapes if shape}) > 1:
        raise InteractionsError(f"prompts of shapes {shapes} cannot stand side by side; use banks of one length")
    return with_prompts(result, np.concatenate([part for part in prompts if part is not None], axis=-1))


def best_teacher(teachers: Sequence[datasets.Dataset], task: Task | None = None) -> list[float]:
    """Return weights for :func:`combine_teachers`: 1 for the source that predicts labels best, 0 for all others.

    Args:
        teachers: validation rows with the predictions of each source (``noise=0``), in the adapter's source order. The
            banks must not have been trained on them. The best has the lowest root mean square of prediction minus
            label; for clicks that is the root of the Brier score.
        task: of the sources, if it has an offset.

    Raises:
        ConfigurationError: there is no source.
        InteractionsError: the sources were asked about other rows.
    """
    _weights("mean", len(teachers))
    alike = _same_rows(teachers)
    known = offsets_of(alike[0], task or default_task())
    labels = numbers(alike[0], "label") - known
    errors = [math.sqrt(float(np.square(numbers(rows, PREDICTION) - labels).mean())) for rows in alike]
    best = int(np.argmin(errors))
    told = ", ".join(f"{error:.4f}" for error in errors)
    logger.info("errors of the sources on %d rows: %s; source %d is the teacher", len(alike[0]), told, best + 1)
    return [float(number == best) for number in range(len(errors))]


def require_independent_noise(asked: torch.Tensor, own: torch.Tensor, sizes: Sequence[int]) -> None:
    """Refuse prompts of several sources with the same noise: an adapter cannot tell the sources apart by it.

    Args:
        asked: prompts ``(N, l, sum of sizes)`` that the sources were asked with.
        own: the prompts of the rows' users, of the same shape.
        sizes: the hidden size of each source.

    Raises:
        ConfigurationError: the noise of two sources is the same.
    """
    some = slice(0, _ROWS_COMPARED)
    parts = (asked[some, 0] - own[some, 0]).double().split(list(sizes), dim=-1)
    for (first, one), (second, two) in combinations(enumerate(parts, 1), 2):
        size = min(one.shape[1], two.shape[1])
        noise = torch.stack([one[:, :size].flatten(), two[:, :size].flatten()])
        if noise.shape[1] > 1 and float(torch.corrcoef(noise)[0, 1]) > _SAME:
            raise ConfigurationError(
                f"sources {first} and {second} were asked with the same noise; give with_source_predictions another "
                "seed for each source"
            )


def _weights(how: str | Sequence[float], sources: int) -> np.ndarray:
    if not sources:
        raise ConfigurationError("no teacher given; give the rows of with_source_predictions by each source")
    if isinstance(how, str):
        if how != "mean":
            raise ConfigurationError(f"how={how!r} is unknown; give 'mean', or a weight for each source")
        return np.full(sources, 1 / sources)
    try:
        weights = np.asarray(how, dtype=np.float64)
    except (TypeError, ValueError):
        weights = np.array(math.nan)
    if weights.shape != (sources,) or not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum() > 0:
        raise ConfigurationError(
            f"how={how!r} must be 'mean', or {sources} weights of at least 0 that are not all 0, one for each source"
        )
    shares: np.ndarray = weights / weights.sum()
    return shares


def _same_rows(teachers: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """The rows of the users and items that all were asked about.

    Raises:
        InteractionsError: they differ, or predictions are missing.
    """
    for number, rows in enumerate(teachers, 1):
        lacking = [name for name in TEACHER_COLUMNS if name not in rows.column_names]
        if lacking:
            raise InteractionsError(
                f"the rows of source {number} lack {', '.join(lacking)}; make them with with_source_predictions"
            )
    alike = list(teachers)
    for owners in (USERS, ITEMS):
        named = [set(codes(column(rows, owners.column))[1]) for rows in alike]
        common = reduce(set.intersection, named)
        if not common:
            raise InteractionsError(
                f"the sources were asked about no {owners.name} in common; give them the same interactions"
            )
        left_out = len(set.union(*named)) - len(common)
        if left_out:
            logger.warning("%d %s that some source was not asked about were left out", left_out, owners.name)
            alike = [of_users(rows, sorted(common), owners.column) for rows in alike]
    first = _asked_about(alike[0])
    for number, rows in enumerate(alike[1:], 2):
        if not _asked_about(rows).equals(first):
            raise InteractionsError(
                f"sources 1 and {number} were asked about other rows ({len(first)} and {len(rows)} of their common "
                "users and items); give all the same interactions, in one order"
            )
    return alike


def _asked_about(rows: datasets.Dataset) -> pa.Table:
    """The interactions alone, their columns in the order of their names."""
    names = sorted(name for name in rows.column_names if name not in (*TEACHER_COLUMNS, PROMPT))
    return pa.table({name: column(rows, name) for name in names})
