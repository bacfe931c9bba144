"""Finding users by their ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_hub.errors import BankError

_FEW = 256
"""Up to this many users are looked up one by one. For more, a hash table of all ids is faster."""


class UserIndex:
    """Maps user ids to rows. The ids stay in Arrow, where a million take about 20 MB instead of 100.

    Args:
        ids: the ids of a bank, in its order.

    Raises:
        BankError: an id is null or empty, or two ids are the same.
    """

    def __init__(self, ids: pa.ChunkedArray) -> None:
        # 64-bit offsets: more than 2 GB of ids still fit into one piece.
        whole = ids.cast(pa.large_string()).combine_chunks()
        self.ids: pa.LargeStringArray = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
        if self.ids.null_count:
            raise BankError("the columns user_id and prompt must not hold nulls; drop those rows")
        self._require_filled()
        # In the files of a bank the ids are strictly sorted. Then no other index is needed, and none is repeated.
        self._order = None if is_rising(self.ids) else pc.array_sort_indices(self.ids)
        self._sorted = self.ids if self._order is None else self.ids.take(self._order)
        if self._order is not None:
            self._require_distinct()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_rising(self) -> bool:
        """Whether the ids are sorted by their UTF-8 bytes."""
        return self._order is None

    @cached_property
    def names(self) -> list[str]:
        """The ids as strings, in the bank's order."""
        found: list[str] = self.ids.to_pylist()
        return found

    @property
    def order(self) -> np.ndarray:
        """Row numbers in the order of their ids' UTF-8 bytes."""
        return np.arange(len(self)) if self._order is None else self._order.to_numpy().astype(np.int64)

    def row(self, user: object) -> int:
        """The row of a user, or -1."""
        if not isinstance(user, str):
            return -1
        place = bisect_left(range(len(self)), user, key=lambda number: self._sorted[number].as_py())
        if place == len(self) or self._sorted[place].as_py() != user:
            return -1
        return place if self._order is None else int(self._order[place].as_py())

    def rows(self, users: Sequence[str]) -> np.ndarray:
        """The rows of many users, int64 ``(N,)``, with -1 for unknown users."""
        if len(users) > _FEW:
            try:
                return self.rows_of(pa.array(users, pa.large_string()))
            except UnicodeEncodeError:  # one string holds half of a surrogate pair, so look up one by one
                pass
        return np.fromiter((self.row(user) for user in users), np.int64, len(users))

    def rows_of(self, ids: pa.LargeStringArray) -> np.ndarray:
        """The rows of ids, int64 ``(N,)``, with -1 for unknown users."""
        found = pc.index_in(ids, value_set=self.ids)
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def is_in(self, other: UserIndex) -> np.ndarray:
        """Which of these users are in ``other``, bool ``(N,)``."""
        found: np.ndarray = pc.is_in(self.ids, value_set=other.ids).to_numpy(zero_copy_only=False)
        return found

    def _require_filled(self) -> None:
        empty = pc.equal(self.ids, pa.scalar("", pa.large_string()))
        if count := pc.sum(empty).as_py():
            raise BankError(f"{count} user ids are empty (the first in row {empty.index(True)}); give every user an id")

    def _require_distinct(self) -> None:
        repeated = np.flatnonzero(
            pc.equal(self._sorted.slice(0, len(self) - 1), self._sorted.slice(1)).to_numpy(zero_copy_only=False)
        )
        if len(repeated):
            pair = sorted(self.order[repeated[0] : repeated[0] + 2].tolist())
            raise BankError(
                f"{len(repeated)} user ids are duplicates (one stands in rows {pair[0]} and {pair[1]}); keep one "
                "prompt for each user"
            )


def joined_ids(parts: Iterable[pa.LargeStringArray], count: int) -> pa.LargeStringArray:
    """``count`` ids in one array, which is all that is in memory besides one part.

    Raises:
        BankError: an id is null.
    """
    letters, ends, done = bytearray(), np.zeros(count + 1, np.int64), 0
    for part in parts:
        if part.null_count:
            raise BankError("the columns user_id and prompt must not hold nulls; drop those rows")
        if not len(part):
            continue
        _, offsets, data = part.buffers()
        here = np.frombuffer(offsets, np.int64)[part.offset : part.offset + len(part) + 1]
        ends[done + 1 : done + len(part) + 1] = here[1:] - here[0] + len(letters)
        if data is not None:
            letters += memoryview(data)[here[0] : here[-1]]
        done += len(part)
    return pa.LargeStringArray.from_buffers(done, pa.py_buffer(ends), pa.py_buffer(letters))


def is_rising(ids: pa.LargeStringArray) -> bool:
    """Whether ids are sorted by their UTF-8 bytes, each once."""
    return len(ids) < 2 or bool(pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py())
