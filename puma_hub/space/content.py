"""What the app shows: two pipelines, users, items, held-out labels and a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import datasets

from puma_hub.data.rows import numbers, texts
from puma_hub.pipelines import PersonalizedScoringPipeline
from puma_hub.space.report import Report

MOST_SHOWN = 2000
"""Items that can be chosen from; of longer catalogues the first ones."""


@dataclass(frozen=True)
class Items:
    """Items by their numbers, from 0: what the LLMs read, and how users of the bank rated them.

    ``labels[user_id][item]``: held-out labels.
    """

    texts: tuple[str, ...]
    labels: Mapping[str, Mapping[int, float]]

    @classmethod
    def of(cls, catalogue: datasets.Dataset, held_out: datasets.Dataset | None = None) -> Items:
        """The first items of a catalogue, with the labels of checked held-out rows.

        An item of which a row is held out has the text of that row, so that its score is that of an evaluation.
        """
        known = dict(zip(texts(catalogue, "item_id"), texts(catalogue, "item_text")))
        known = dict(list(known.items())[:MOST_SHOWN])
        number = {item: place for place, item in enumerate(known)}
        labels: dict[str, dict[int, float]] = {}
        if held_out is not None:
            columns = (texts(held_out, name) for name in ("user_id", "item_id", "item_text"))
            for user, item, text, label in zip(*columns, numbers(held_out, "label").tolist()):
                if item in known:
                    known[item] = text
                    labels.setdefault(user, {})[number[item]] = label
        return cls(tuple(known.values()), labels)

    def titles(self) -> list[str]:
        """A line for each item, all different: the first one of its text, shortened, and numbered where needed."""
        titles: dict[str, None] = {}
        for text in self.texts:
            title = _title(text)
            numbered = (f"{title} ({number})" for number in count(2))
            titles[title if title not in titles else next(one for one in numbered if one not in titles)] = None
        return list(titles)


@dataclass(frozen=True)
class Content:
    """What the app shows.

    Args:
        source, target: score the same users on the source LLM and, migrated, on the target LLM.
        users: ids, by the users' numbers. The app shows numbers and no ids.
        items: what can be scored.
        unseen: ids of users that the adapter was not trained on; None where that is not known.
        report: on the migration as a whole.
        whose: a sentence in Markdown on whose prompts these are.
    """

    source: PersonalizedScoringPipeline
    target: PersonalizedScoringPipeline
    users: tuple[str, ...]
    items: Items
    whose: str
    unseen: frozenset[str] | None = None
    report: Report = field(default_factory=Report)


_LONGEST_TITLE = 90


def _title(text: str) -> str:
    lines = text.split("\n")
    line = next((line for line in lines if line.strip()), text)
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1].rstrip()}…"
