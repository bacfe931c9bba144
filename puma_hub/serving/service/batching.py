"""A queue whose entries are worked on together, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from puma_hub.serving.service.refusal import overloaded, stopping


class Entry(Protocol):
    """What waits in a queue."""

    @property
    def gone(self) -> bool:
        """Whether nobody wants the answer any more."""

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless there is an answer already. Called in any thread."""


Waiting = TypeVar("Waiting", bound=Entry)


class Batcher(Generic[Waiting]):
    """Collects entries and works on several at once, the oldest first.

    A batch is begun when it is full, or when its oldest entry has waited ``wait`` seconds. While one is worked on,
    others gather.

    Args:
        work: answers the entries of a batch. Of those left unanswered each gets the error that it raises.
        name: of the thread.
        size: entries of a batch at most.
        wait: seconds.
        most: entries that may wait.
        begun: told the number of entries of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Waiting]], None],
        *,
        name: str,
        size: int,
        wait: float,
        most: int,
        begun: Callable[[int], None],
    ) -> None:
        self._work, self._size, self._wait, self._most, self._begun = work, size, wait, most, begun
        self._waiting: deque[tuple[float, Waiting]] = deque()
        self._current: Sequence[Waiting] = ()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"puma-hub-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, entries: Sequence[Waiting]) -> None:
        """Add entries to the queue, all or none.

        Raises:
            Refusal: there is no room, or the service is stopping.
        """
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise stopping()
            if len(self._waiting) + len(entries) > self._most:
                raise overloaded(f"{len(self._waiting)} of at most {self._most} are waiting; ask again later", 1)
            before = len(self._waiting)
            self._waiting.extend((now, entry) for entry in entries)
            if before == 0 or before < self._size <= len(self._waiting):  # otherwise the thread knows what it needs
                self._changed.notify()

    def forget_gone(self) -> None:
        """Take entries that nobody wants any more out of the queue."""
        with self._changed:
            self._waiting = deque(one for one in self._waiting if not one[1].gone)

    def close(self) -> None:
        """Refuse new entries. Those that wait are still worked on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abandon(self) -> None:
        """Refuse all that wait or are worked on, and new ones."""
        self.close()
        with self._changed:
            left = [*(entry for _, entry in self._waiting), *self._current]
            self._waiting.clear()
        for entry in left:
            entry.fail(stopping())

    @property
    def ended(self) -> bool:
        """Whether it is closed and all is done."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._collected():
            self._begun(len(batch))
            try:
                self._work(batch)
            except Exception as error:
                for entry in batch:
                    entry.fail(error)
            self._current = ()
            del batch  # it would keep the prompts until the next one

    def _collected(self) -> list[Waiting]:
        """The entries of the next batch; none when the queue is closed and empty."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                left = self._waiting[0][0] + self._wait - time.monotonic()
                if left <= 0 or len(self._waiting) >= self._size or self._closed:
                    taken: list[Waiting] = []
                    while self._waiting and len(taken) < self._size:
                        entry = self._waiting.popleft()[1]
                        if not entry.gone:
                            taken.append(entry)
                    if taken:
                        self._current = taken
                        return taken
                    continue
                self._changed.wait(left)
