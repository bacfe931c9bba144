"""Recognising training rows among held-out rows: a bank keeps hashes of a sample of the rows it was trained on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from types import NoneType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.data.cell_values import as_text
from puma_hub.data.rows import codes, column, numbers
from puma_hub.data.times import as_microseconds, as_times, order_key
from puma_hub.errors import BankError, InteractionsError, shown
from puma_hub.hub.markup import visible
from puma_hub.limits import MAX_ROWS, require_whole

logger = logging.getLogger(__name__)

MEANS_IN_TEXTS = "each item's mean label added to its text (--item-statistics)"
"""The step of a description that changes what the LLM reads."""

_MARK = "Interactions: "  # the start of our descriptions, to tell them from others
_SIZE = 1024
_SHOWN = 300
_TOLERATED = 0.01  # the share of held-out rows that may be in the training set by chance, as repeated rows
_KEY = b"puma_hub row"  # always the same, so that samples of two banks can be joined


def with_description(rows: datasets.Dataset, step: str) -> datasets.Dataset:
    """``rows`` with one more step in the description of how they were chosen."""
    info = rows.info.copy()
    before = description(rows)
    info.description = f"{_MARK}{before}; {step}" if before else _MARK + step
    result = rows.with_format(None)
    result._info = info
    return result


def description(rows: datasets.Dataset) -> str | None:
    """How :mod:`puma_hub.data` chose ``rows``; None if it did not."""
    text = rows.info.description or ""
    return text.removeprefix(_MARK) if text.startswith(_MARK) else None


def row_hashes(rows: datasets.Dataset) -> np.ndarray:
    """Hashes of user, item, label and timestamp of checked rows, uint64 ``(N,)``.

    The item's text is left out, since it may differ between splits. Rows may lack labels and timestamps.
    """
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for name in ("user_id", "item_id"):
        which, values = codes(as_text(column(rows, name), name))
        distinct = np.array([_hash(value) for value in values], dtype=np.uint64)
        mixed = _mix(mixed ^ distinct[which]) if values else mixed
    if "label" in rows.column_names:
        mixed = _mix(mixed ^ _bits(numbers(rows, "label")))
    if "timestamp" in rows.column_names:
        mixed = _mix(mixed ^ _bits(_moments(as_times(column(rows, "timestamp")))))
    return mixed


def among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A mask ``(N,)`` of the hashes ``values (N,)`` that are in ``others (M,)``."""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    ordered = np.sort(others)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _distinct(hashes: np.ndarray) -> np.ndarray:
    ordered = np.sort(hashes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=_KEY).digest(), "little")


def _moments(times: pa.ChunkedArray) -> np.ndarray:
    """Timestamps as numbers that do not depend on the file's type: in microseconds, if the unit is known."""
    if pa.types.is_temporal(times.type):
        zone = getattr(times.type, "tz", None)
        return order_key(pc.cast(times, pa.timestamp("us", zone), safe=False))
    return as_microseconds(order_key(times))


def _bits(values: np.ndarray) -> np.ndarray:
    """Numbers as uint64. Whole numbers give the same result as int64 and as float64."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64).view(np.uint64)
    whole = (np.abs(values) < 2.0**53) & (values == np.rint(values))
    return np.where(whole, np.where(whole, values, 0).astype(np.int64).view(np.uint64), values.view(np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: each bit of a value changes about half the bits of the result."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """A record of the rows that a bank was trained on.

    It has the number of distinct ``rows``, and the ``hashes`` of a sample of up to 1,024 of them. The sample has the
    smallest hashes (a bottom-k sketch). So each training row is in it with the same probability, and two samples can be
    joined without the rows. ``chosen`` says how the rows were chosen, ``timed`` whether they had timestamps, if known.
    """

    rows: int
    hashes: np.ndarray
    chosen: str | None = None
    timed: bool | None = None

    @classmethod
    def of(cls, rows: datasets.Dataset) -> TrainedRows:
        """The record of checked interactions."""
        hashes = _distinct(row_hashes(rows))
        return cls(len(hashes), hashes[:_SIZE], description(rows), "timestamp" in rows.column_names)

    @classmethod
    def of_all(cls, parts: Iterable[TrainedRows | None]) -> TrainedRows | None:
        """The joined record of all known parts; None if no part is known."""
        known = [part for part in parts if part is not None]
        return reduce(cls.joined, known) if known else None

    @property
    def is_whole(self) -> bool:
        """Whether the sample has all rows."""
        return len(self.hashes) == self.rows

    def joined(self, other: TrainedRows) -> TrainedRows:
        """The record of both. The number of rows is estimated unless both samples have all rows."""
        hashes = np.union1d(self.hashes, other.hashes)
        rows = len(hashes)
        if not (self.is_whole and other.is_whole):
            estimate = round((_SIZE - 1) * 2.0**64 / float(hashes[_SIZE - 1]))
            rows = min(max(estimate, self.rows, other.rows), self.rows + other.rows)
        chosen = self.chosen if self.chosen == other.chosen else None
        return TrainedRows(rows, hashes[:_SIZE], chosen, self.timed if self.timed == other.timed else None)

    def found_in(self, hashes: np.ndarray) -> int:
        """The number of training rows among rows with these hashes ``(M,)``; estimated from the sample if need be."""
        found = int(among(hashes, self.hashes).sum())
        return found if self.is_whole else min(len(hashes), round(found * self.rows / len(self.hashes)))

    def to_dict(self) -> dict[str, Any]:
        packed = base64.b64encode(self.hashes.astype("<u8").tobytes()).decode()
        return {"rows": self.rows, "chosen": self.chosen, "timed": self.timed, "hashes": packed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainedRows:
        """Rebuild from the output of :meth:`to_dict`.

        Raises:
            BankError: the record is damaged.
        """
        try:
            hashes = np.frombuffer(base64.b64decode(data["hashes"], validate=True), "<u8").astype(np.uint64)
            rows = require_whole(data["rows"], "rows", MAX_ROWS, least=0)
            chosen, timed = data.get("chosen"), data.get("timed")
            if not isinstance(chosen, (str, NoneType)) or not isinstance(timed, (bool, NoneType)):
                raise TypeError(f"chosen is text and timed true or false, got {shown((chosen, timed))}")
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BankError("the bank's record of its training rows is damaged; take another copy of it") from error
        if len(hashes) != min(rows, _SIZE):
            raise BankError(
                f"the bank's record of its training rows is damaged: {len(hashes)} hashes of {rows} rows; take another "
                "copy of it"
            )
        return cls(rows, hashes, chosen, timed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainedRows) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.rows, self.chosen))


def refuse_trained_rows(
    rows: datasets.Dataset, trained: TrainedRows | None, train: datasets.Dataset | None = None, allowed: bool = False
) -> int:
    """The number of checked held-out ``rows`` that the bank was trained on.

    A row that is also in ``train``, the training rows of the same split, is repeated: the same user gave the same item
    the same label again. A few such rows (up to 1 %, or a single one) are counted, but are not an error.

    Raises:
        InteractionsError: there are more, and they are not ``allowed``.
    """
    if trained is None or not len(trained.hashes):
        return 0
    _compare_texts(rows, trained)
    if trained.timed is not None and trained.timed != ("timestamp" in rows.column_names):
        logger.warning(
            "cannot check whether the bank was trained on these rows: its training rows %s timestamps, these %s; give "
            "the same columns as in training",
            *(("had", "have none") if trained.timed else ("had no", "have some")),
        )
    hashes = row_hashes(rows)
    if train is not None:
        hashes = hashes[~among(hashes, row_hashes(train))]
    found = trained.found_in(hashes)
    if allowed or found <= max(1, _TOLERATED * len(rows)):
        return found
    about = "" if trained.is_whole else "about "
    ways = f" It was trained with {visible(trained.chosen)[:_SHOWN]}." if trained.chosen else ""
    raise InteractionsError(
        f"the bank was trained on {about}{found} of {len(rows)} held-out rows, so their error says nothing about new "
        "rows; hold out the same rows as in training (--users, --rows-per-user, --held-out), or pass "
        f"allow_training_rows=True (--allow-training-rows).{ways}"
    )


def _compare_texts(rows: datasets.Dataset, trained: TrainedRows) -> None:
    """Tell in the log if the items' texts were changed in training and not in ``rows``, or the other way round."""
    ours = description(rows)
    if trained.chosen is None or ours is None or (MEANS_IN_TEXTS in trained.chosen) == (MEANS_IN_TEXTS in ours):
        return
    had, has = ("with", "without") if MEANS_IN_TEXTS in trained.chosen else ("without", "with")
    logger.warning(
        "the bank was trained %s %s, and these rows are %s it: the LLM reads other texts than in training, and the "
        "figures are worse for it; read the rows as in training",
        had,
        MEANS_IN_TEXTS,
        has,
    )
