"""Scores of one user's items on both LLMs, with the user's own prompt and with the mean prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from puma_hub.errors import ConfigurationError
from puma_hub.pipelines import PersonalizedScoringPipeline

MOST_ITEMS = 12
"""Items that are scored at once."""
_KEPT = 256


@dataclass(frozen=True)
class Answer:
    """The prediction of an LLM and the probabilities of the task's answers."""

    score: float
    distribution: dict[str, float]


@dataclass(frozen=True)
class ItemScores:
    """One item for one user: with the user's prompt on the source LLM and, migrated, on the target LLM.

    ``source_mean`` and ``target_mean``: with the mean prompt of the same bank, which is what every user would get.
    """

    source: Answer
    target: Answer
    source_mean: Answer
    target_mean: Answer


def scores_of(
    source: PersonalizedScoringPipeline, target: PersonalizedScoringPipeline, user_id: str, texts: Sequence[str]
) -> list[ItemScores]:
    """The scores of items, given by their ``texts``, for a user of both pipelines' banks.

    Raises:
        UnknownUserError: the user is in one of the banks only, or in none.
        NotFiniteError: an LLM's answers are NaN or infinite.
    """
    own, mean = _answers(source, user_id, texts)
    moved, moved_mean = _answers(target, user_id, texts)
    return [ItemScores(*answers) for answers in zip(own, moved, mean, moved_mean)]


def require_showable(pipeline: PersonalizedScoringPipeline) -> None:
    """Refuse prompts whose scores need more of a row than its item.

    Raises:
        ConfigurationError: the template shows a history, or the task adds a known part to its predictions.
    """
    lm: Any = pipeline.lm
    if "<history>" in lm.template.text:
        raise ConfigurationError(
            f"the app shows items without a history, and the template {lm.template.text!r} needs one; use a bank of "
            "another template"
        )
    if lm.task.offset_column is not None:
        raise ConfigurationError(
            f"the task adds {lm.task.offset_column!r} to its predictions, which the app does not know; use a bank that "
            "was trained without it"
        )


class Scores:
    """:func:`scores_of` by numbers, one call at a time; the latest results are kept.

    Args:
        users: ids, by the users' numbers.
        texts: the items' texts, by their numbers.

    Raises:
        ConfigurationError: see :func:`require_showable`.
    """

    def __init__(
        self,
        source: PersonalizedScoringPipeline,
        target: PersonalizedScoringPipeline,
        users: Sequence[str],
        texts: Sequence[str],
    ) -> None:
        for pipeline in (source, target):
            require_showable(pipeline)
        self._pipelines, self._users, self._texts = (source, target), users, texts
        self._lock = Lock()  # prefix caches are filled while scoring
        self._kept = lru_cache(_KEPT)(self._computed)

    def of(self, user: int, items: Sequence[int]) -> list[ItemScores]:
        """The scores of ``items`` for ``user``, both by their numbers, from 0.

        Raises:
            ConfigurationError: a number is out of range, or there are too many items or none.
        """
        if not 0 <= user < len(self._users):
            raise ConfigurationError(f"there are the users 1 to {len(self._users):,}; choose one of them")
        if not 0 < len(items) <= MOST_ITEMS:
            raise ConfigurationError(f"{len(items)} items are chosen; choose 1 to {MOST_ITEMS}")
        if not all(0 <= item < len(self._texts) for item in items):
            raise ConfigurationError(f"there are {len(self._texts):,} items; choose some of the list")
        with self._lock:
            return self._kept(user, tuple(items))

    def _computed(self, user: int, items: tuple[int, ...]) -> list[ItemScores]:
        return scores_of(*self._pipelines, self._users[user], [self._texts[item] for item in items])


def _answers(
    pipeline: PersonalizedScoringPipeline, user_id: str, texts: Sequence[str]
) -> tuple[list[Answer], list[Answer]]:
    """The answers with the user's own prompt, and with the mean prompt."""
    mean = pipeline.prompts.mean
    rows: list[dict[str, Any]] = [{"item_text": text, "user_id": user_id} for text in texts]
    rows += [{"item_text": text, "prompt": mean} for text in texts]
    answers = [Answer(result["score"], result["distribution"]) for result in pipeline(rows)]
    return answers[: len(texts)], answers[len(texts) :]
