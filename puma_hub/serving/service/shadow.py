"""Shadow mode: rows that one version has answered are scored by the other too, and the scores are compared."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from puma_hub.errors import PumaHubError
from puma_hub.serving.rollout.version import Version
from puma_hub.serving.service.agreement import Agreement
from puma_hub.serving.service.backend import Row, Scored
from puma_hub.serving.service.loaded import Loaded
from puma_hub.serving.service.meters import Meters

_log = logging.getLogger(__name__)
_SECONDS = 60.0  # between two lines of progress
_ONE_IN = 4  # of a queue's places, that rows may take which are scored for comparison alone


class Shadow:
    """Compares versions, after the answers were given.

    Rows are left out where there is no room for them, where only one version has a score, and where one has used the
    mean prompt.

    Args:
        queue: rows that may wait in a version's queue.
        say: told how far the versions agree, each minute in which rows are compared and at the end.
    """

    def __init__(self, queue: int, meters: Meters, say: Callable[[str], None]) -> None:
        self._most, self._meters, self._say = max(1, queue // _ONE_IN), meters, say
        self._waiting, self._said = 0, time.monotonic()
        self._versions: tuple[Version, ...] = ()
        self._agreement: Agreement | None = None

    def begin(self, versions: tuple[Version, ...]) -> None:
        """Compare these two from now on, or none; going on where they are the same as before."""
        before = self._agreement
        if versions == self._versions:
            return
        if before is not None and (before.rows or before.left_out):
            self._say(str(before))
        self._versions = versions
        self._agreement = Agreement(*(one.name for one in versions)) if versions else None

    def report(self) -> dict[str, Any] | None:
        """How far they agree; None where nothing is compared."""
        return None if self._agreement is None else self._agreement.report()

    async def compare(
        self, answered: Sequence[tuple[Row, Scored | Exception]], other: Loaded, *, is_stable: bool
    ) -> None:
        """Score rows with the other version too.

        Args:
            answered: rows with the scores that one version gave.
            is_stable: whether that was the stable version.
        """
        agreement = self._agreement
        if agreement is None:
            return
        pairs = [(row, scored) for row, scored in answered if _is_own(scored)]
        if self._waiting + len(pairs) > self._most:
            pairs = []
        self._leave_out(agreement, len(answered) - len(pairs))
        if not pairs:
            return
        self._waiting += len(pairs)
        try:
            others = await other.score([row for row, _ in pairs])
        except Exception as error:
            # One of ours: there is no room, or it has just been retired. The words of others may name a user.
            if not isinstance(error, PumaHubError):
                _log.error("shadow: the other version failed with %s", type(error).__name__)
            self._leave_out(agreement, len(pairs))
            return
        finally:
            self._waiting -= len(pairs)
        for (_, ours), theirs in zip(pairs, others):
            if not (_is_own(ours) and _is_own(theirs)):
                self._leave_out(agreement, 1)
                continue
            same = agreement.add(*((ours, theirs) if is_stable else (theirs, ours)))
            self._meters.compared(same, abs(ours["score"] - theirs["score"]))
        if time.monotonic() - self._said >= _SECONDS:
            self._said = time.monotonic()
            self._say(str(agreement))

    def _leave_out(self, agreement: Agreement, rows: int) -> None:
        agreement.leave_out(rows)
        self._meters.not_compared(rows)


def _is_own(scored: Scored | Exception) -> TypeGuard[Scored]:
    """Whether it is a score by the user's own prompt."""
    return isinstance(scored, dict) and not scored.get("cold_start")
