"""Text templates as segments: texts, and slots for soft prompts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from puma_hub.errors import ConfigurationError, InteractionsError, TemplateError, shown

USER, ITEM = "user", "item_prompt"
SOFT_SLOTS: tuple[str, ...] = (USER, ITEM)
"""The names of soft slots, the places of soft prompts in a text."""

_SLOT = re.compile(r"<[A-Za-z_][A-Za-z0-9_]*>")
_TEXT_SLOTS = ("<item>", "<history>")
_TEXT_SLOT = re.compile(f"({'|'.join(_TEXT_SLOTS)})")
_HISTORY_TITLES = 5  # paper, data section: five clicked titles in a row, here the newest

# The item comes first and the soft prompt late, so that the text before the soft prompt is the same for all users. In
# "rating" one token follows the soft prompt, the space before the answer: most tokenizers make it a separate token, and
# digits come next.
PRESETS: dict[str, str] = {
    "rating": "<item>\nRating by one user:<user> ",
    "rating-items": "<item><item_prompt>\nRating by one user:<user> ",
    "click": "Headline: <item>\nWill the reader of <history> open it, given <user>? Yes or No:",
    "paper/amazon": (
        "A viewer's taste is described by <user>. Which whole number from 1 to 5 would this viewer "
        'give the title "<item>"?\nAnswer:'
    ),
    "paper/yelp": (
        "A customer's taste is described by <user>. Which whole number from 1 to 5 would this "
        "customer give the business <item>?\nAnswer:"
    ),
    "paper/mind": (
        "A reader opened these headlines: <history>. The reader's taste is described by <user>. "
        'Would the reader open "<item>"? Reply with "Yes" or "No".\nAnswer:'
    ),
}

# The numbers that a preset's own words ask for.
VALUES_OF_PRESETS = {PRESETS[name]: ("1", "2", "3", "4", "5") for name in ("paper/amazon", "paper/yelp")}


class Part(NamedTuple):
    """A piece of a text: the template's own, or ``given`` by a row or a message."""

    text: str
    given: bool


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class SoftSlot:
    """Where a soft prompt stands in a text; ``name`` is one of :data:`SOFT_SLOTS`."""

    name: str


@dataclass(frozen=True)
class PromptTemplate:
    """A text with ``<user>`` exactly once, and optional placeholders ``<item>``, ``<history>`` and ``<item_prompt>``.

    The user's soft prompt takes the place of ``<user>`` at embedding level, and the item's that of ``<item_prompt>``;
    no tokens stand for them.

    Raises:
        TemplateError: a placeholder is unknown, missing or repeated.
    """

    text: str

    def __post_init__(self) -> None:
        slots = _SLOT.findall(self.text)
        known = (*(f"<{name}>" for name in SOFT_SLOTS), *_TEXT_SLOTS)
        unknown = sorted(set(slots) - set(known))
        if unknown:
            raise TemplateError(
                f"unknown placeholder {', '.join(map(shown, unknown[:3]))} in template {shown(self.text)}; use "
                f"{', '.join(known)}"
            )
        for slot in known:
            if slots.count(slot) > 1:
                raise TemplateError(f"{slot} occurs {slots.count(slot)} times in {shown(self.text)}; write it once")
        if "<user>" not in slots:
            raise TemplateError(f"the template {shown(self.text)} has no <user>; put it where the soft prompt goes")

    @classmethod
    def of(cls, template: PromptTemplate | str) -> PromptTemplate:
        """Return a template from a template, the name of a preset, or a text with slots."""
        if isinstance(template, PromptTemplate):
            return template
        if not isinstance(template, str):
            raise ConfigurationError(
                f"a template is a text with the placeholder <user> or a preset's name, got {shown(template)}"
            )
        if template in PRESETS:
            return cls(PRESETS[template])
        if "<user>" not in template and not _SLOT.search(template) and " " not in template:
            raise ConfigurationError(
                f"no template preset {shown(template)}; presets are {', '.join(PRESETS)}, or pass a text with <user>"
            )
        return cls(template)

    @cached_property
    def _own(self) -> tuple[str | SoftSlot, ...]:
        """The template's own texts and its soft slots, taking turns."""
        pieces = re.split("|".join(f"<({name})>" for name in SOFT_SLOTS), self.text)
        step = len(SOFT_SLOTS) + 1  # a text, then one group for each name, of which one is matched
        return tuple(
            piece if place % step == 0 else SoftSlot(piece) for place, piece in enumerate(pieces) if piece is not None
        )

    @property
    def soft_slots(self) -> tuple[str, ...]:
        """The names of the template's soft slots, in the text's order."""
        return tuple(own.name for own in self._own if isinstance(own, SoftSlot))

    def segments(self, row: Mapping[str, Any]) -> tuple[Parts | SoftSlot, ...]:
        """The text of one row of interactions as segments: texts and soft slots, taking turns.

        The first and the last are texts, which may be empty; the row's words are marked as given. A ``history`` lists
        titles, the oldest first; the last five are shown in that order, the newest at the end.

        Raises:
            InteractionsError: the row lacks its item's text, or its history is no list of texts.
        """
        values = {"<history>": "; ".join(_newest(row.get("history"))), "<item>": ""}
        if "<item>" in self.text:
            values["<item>"] = _item_text(row)
        # In one pass, so that placeholders in an item's text are not replaced.
        return tuple(own if isinstance(own, SoftSlot) else _filled(own, values) for own in self._own)

    def render(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts around the soft slots for one row of interactions: one more than there are slots.

        Raises:
            InteractionsError: as :meth:`segments`.
        """
        texts = (segment for segment in self.segments(row) if not isinstance(segment, SoftSlot))
        return tuple("".join(part.text for part in parts) for parts in texts)

    def columns(self, present: Collection[str]) -> list[str]:
        """Those of the columns ``present`` that :meth:`render` reads.

        Raises:
            TemplateError: the template shows a history, and there is none.
        """
        names = [name for name in ("item_text", "history") if name in present]
        if "<history>" in self.text and "history" not in names:
            raise TemplateError(
                f"template {shown(self.text)} shows <history>, rows have no column 'history'; add it or change the "
                "template"
            )
        return names


def _newest(history: Any) -> list[str]:
    """The last titles of a list; missing and empty ones are left out."""
    if history is None:
        return []
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Iterable):
        raise InteractionsError(
            f"history must be a list of titles, the oldest first, got {type(history).__name__}; split it into titles"
        )
    titles = [title for title in history if title is not None and title == title and title != ""]
    others = sorted({type(title).__name__ for title in titles if not isinstance(title, str)})
    if others:
        raise InteractionsError(f"history must hold titles as text, got {', '.join(others)}; give the titles")
    return titles[-_HISTORY_TITLES:]


def _filled(text: str, values: Mapping[str, str]) -> Parts:
    pieces = [Part(values.get(piece, piece), piece in values) for piece in _TEXT_SLOT.split(text)]
    return tuple(piece for piece in pieces if piece.text)


def _item_text(row: Mapping[str, Any]) -> str:
    text = row.get("item_text")
    if text is None or (isinstance(text, float) and text != text):
        raise InteractionsError("a row has no item_text, and the template shows <item>; drop the row or fill it")
    if isinstance(text, bytes):
        raise InteractionsError("a row's item_text is bytes; decode it to text")
    return str(text)
