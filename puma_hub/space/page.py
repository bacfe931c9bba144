"""The scores of a user's items as HTML: what the LLMs read, scores, distributions, and how far they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from puma_hub.space.content import Content
from puma_hub.space.scores import ItemScores


def style() -> str:
    """The style sheet of the app."""
    return files("puma_hub.space").joinpath("style.css").read_text(encoding="utf-8")


def scores_page(content: Content, user: int, items: Sequence[int], scores: Sequence[ItemScores]) -> str:
    """The HTML of the ``scores`` of ``items`` for ``user``, both by their numbers."""
    user_id = content.users[user]
    labels = content.items.labels.get(user_id, {})
    return _template().render(
        number=user + 1,
        users=len(content.users),
        unseen=None if content.unseen is None else user_id in content.unseen,
        rated=len(labels) if content.items.labels else None,
        source=model_name(content.source),
        target=model_name(content.target),
        differences=differences(scores),
        errors=errors(scores, [labels.get(item) for item in items]),
        items=[_shown(content.items.texts[item], labels.get(item), one) for item, one in zip(items, scores)],
    )


def model_name(pipeline: Any) -> str:
    """The last part of a model's id."""
    return str(pipeline.spec.model_id).rstrip("/").rpartition("/")[2]


def differences(scores: Sequence[ItemScores]) -> dict[str, float]:
    """How far scores on the target LLM are from the user's on the source LLM, on average: own and mean prompt."""
    source = np.array([one.source.score for one in scores])
    own = np.array([one.target.score for one in scores])
    mean = np.array([one.target_mean.score for one in scores])
    return {"own": float(np.abs(own - source).mean()), "mean": float(np.abs(mean - source).mean())}


def errors(scores: Sequence[ItemScores], labels: Sequence[float | None]) -> dict[str, float] | None:
    """Mean absolute errors on the items that the user rated, by prediction, and their number as ``rows``."""
    rated = [(one, label) for one, label in zip(scores, labels) if label is not None]
    if not rated:
        return None
    names = ("source", "target", "target_mean")
    return {
        **{name: float(np.mean([abs(getattr(one, name).score - label) for one, label in rated])) for name in names},
        "rows": len(rated),
    }


def _shown(text: str, label: float | None, scores: ItemScores) -> Mapping[str, Any]:
    title, *more = [line for line in text.split("\n") if line.strip()] or [""]
    answers = [
        {
            "answer": answer,
            "source": 100 * probability,
            "target": 100 * scores.target.distribution[answer],
            "mean": 100 * scores.target_mean.distribution[answer],
        }
        for answer, probability in scores.source.distribution.items()
    ]
    return {"title": title, "more": more, "label": label, "scores": scores, "answers": answers}


@cache
def _template() -> Template:
    text = files("puma_hub.space").joinpath("scores.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text)
