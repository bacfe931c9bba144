"""One line a stage, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_KNOWN = 0.02  # share of the work after which the rest can be estimated; the first stages also load and download


class Stages:
    """Tells each stage as it begins; what is left is estimated from the work done so far.

    Args:
        say: takes a line.
        work: of each stage, in their order and in any unit.
        clock: seconds.
    """

    def __init__(
        self, say: Callable[[str], None], work: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._names, self._work = tuple(work), dict(work)
        self._done = self._spent = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Say ``text``, and time what is done inside."""
        self._say(f"[{self._names.index(name) + 1}/{len(self._names)}] {text}{self._left()}")
        began = self._clock()
        yield
        self.seconds[name] = self._clock() - began
        self._spent += self.seconds[name]
        self._done += self._work.pop(name)

    def _left(self) -> str:
        left = sum(self._work.values())
        if self._done <= _KNOWN * (self._done + left):
            return ""
        seconds = self._spent / self._done * left
        return f" (about {f'{seconds / 60:.0f} min' if seconds >= 90 else f'{max(seconds, 1):.0f} s'} left)"
