"""The back end of a deployment: each user is answered by the version that the deployment file gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from puma_hub.errors import ConfigurationError
from puma_hub.serving.prompts import Prompts
from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.facts import require_together
from puma_hub.serving.rollout.file import DeploymentFile
from puma_hub.serving.rollout.version import Version
from puma_hub.serving.service.backend import Backend, Row, Scored, TextRequest, TextStream
from puma_hub.serving.service.following import Follower
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.loaded import Loaded, Standing, free_memory
from puma_hub.serving.service.meters import Meters
from puma_hub.serving.service.shadow import Shadow


class VersionedBackend(Backend):
    """Routes requests to the back ends of a deployment's versions, and follows its file.

    Args:
        file: of the deployment.
        load: makes a version's back end, and gives its prompts too. Called in other threads.
        limits, meters: of the service.
        say: takes a line of progress.

    Raises:
        StorageError, ConfigurationError: the file cannot be read, or its versions cannot be served together.
        PumaHubError: a version cannot be loaded. (A version that is added later and cannot be loaded is left out.)
    """

    def __init__(
        self,
        file: DeploymentFile,
        load: Callable[[Version], tuple[Backend, Prompts]],
        *,
        limits: ServiceLimits,
        meters: Meters,
        say: Callable[[str], None],
    ) -> None:
        self._file, self._load, self._limits, self._meters = file, load, limits, meters
        self._say = partial(_tell, say)
        self._shadow = Shadow(limits.queue, meters, self._say)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: tuple[Loaded, ...] = ()  # loaded for a state that the file no longer had
        self._leaving: list[Loaded] = []  # retired, and perhaps still answering
        self._loop: asyncio.AbstractEventLoop | None = None
        stamp = file.stamp()
        deployment = file.read()
        self._name = deployment.name
        self._take(self._prepared(deployment, ()))
        self.offset_column = self._standing.loaded[0].backend.offset_column
        self._follower = Follower(file, stamp, self._follow, self._say)

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._follower.start()

    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        standing = self._standing
        places: dict[Loaded, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(standing.answers(row["user_id"]), []).append(place)
        parts = [[rows[place] for place in found] for found in places.values()]
        scored = await asyncio.gather(*(one.score(part) for one, part in zip(places, parts)), return_exceptions=True)
        answers: list[Scored | Exception] = [{}] * len(rows)
        for one, found, part in zip(places, places.values(), scored):
            if isinstance(part, BaseException):
                if len(places) == 1 or not isinstance(part, Exception):
                    raise part
                part = [part] * len(found)
            for place, answer in zip(found, part):
                answers[place] = {**answer, "version": one.name} if isinstance(answer, dict) else answer
            self._meters.answered_by(one.name, sum(isinstance(answer, dict) for answer in part))
            other = standing.other(one)
            if standing.deployment.shadow and other is not None:
                answered = [(rows[place], answers[place]) for place in found]
                self._start(self._shadow.compare(answered, other, is_stable=one is standing.loaded[0]))
        return answers

    async def stream(self, request: TextRequest) -> TextStream:
        found = self._standing.answers(request.user_id)
        stream = await found.stream(request)
        self._meters.answered_by(found.name, len(request.texts) * request.sampling.n)
        return stream

    def waiting(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for one in self._standing.loaded:
            for queue, entries in one.backend.waiting().items():
                total[queue] = total.get(queue, 0) + entries
        return total

    def standing(self) -> dict[str, Any]:
        """What is served now, without marks of users."""
        deployment = self._standing.deployment
        return {
            "stable": deployment.stable.name,
            "candidate": None if deployment.candidate is None else deployment.candidate.name,
            "share": deployment.split.share,
            "listed": len(deployment.split.listed),
            "shadow": deployment.shadow,
            "agreement": self._shadow.report(),
            # The log says why not: that may name folders of this machine.
            "up_to_date": self._follower.problem is None and not self._follower.busy,
        }

    async def close(self, seconds: float = 0.0) -> None:
        self._follower.stop()
        for task in self._tasks:
            task.cancel()
        ending = (*self._standing.loaded, *self._leaving, *self._waiting)
        await asyncio.gather(*(one.end(seconds) for one in ending))
        self._shadow.begin(())

    # The file has changed

    def _follow(self, deployment: Deployment) -> Callable[[], None]:
        """Load what is new, in the follower's thread; what it gives is called in the event loop."""
        if deployment.name != self._name:
            self._say(f"the LLM is called {self._name} until the service starts again, then {deployment.name}")
        serving, waiting = self._standing.loaded, self._waiting
        standing = self._prepared(deployment, (*serving, *waiting))
        self._waiting = tuple(one for one in standing.loaded if one not in serving)
        self._give_up([one for one in waiting if one not in standing.loaded])

        def switch() -> None:
            old, self._waiting = self._standing, ()
            self._take(standing)
            for one in old.loaded:
                if one not in standing.loaded:
                    self._leaving.append(one)
                    self._start(self._leave(one))

        return switch

    async def _leave(self, one: Loaded) -> None:
        """Unload a version that nobody asks any more, once its last answer is given."""
        await one.end(2 * self._limits.timeout)  # an answer begins within one timeout, and ends within another
        self._leaving.remove(one)
        del one
        await asyncio.get_running_loop().run_in_executor(None, free_memory)

    def _prepared(self, deployment: Deployment, have: tuple[Loaded, ...]) -> Standing:
        """The deployment with its versions loaded; those that are loaded already stay."""
        loaded: list[Loaded] = []
        try:
            for version in deployment.versions:
                known = next((one for one in have if one.version == version), None)
                loaded.append(known or self._loaded(version))
            for other in loaded[1:]:
                _require_same_rows(loaded[0], other)
        except BaseException:
            self._give_up([one for one in loaded if one not in have])
            raise
        return Standing(deployment, tuple(loaded))

    def _loaded(self, version: Version) -> Loaded:
        backend, prompts = self._load(self._file.found(version))
        _ = "" in prompts  # a bank reads its index at the first look-up
        return Loaded(version, backend, prompts)

    def _give_up(self, unused: list[Loaded]) -> None:
        """Unload what was loaded in vain. Before the event loop runs, the service ends anyway."""
        for one in unused:
            if self._loop is not None:
                self._leaving.append(one)
                self._loop.call_soon_threadsafe(self._start, self._leave(one))

    def _take(self, standing: Standing) -> None:
        names = [one.name for one in standing.loaded]
        self._standing = standing
        self._shadow.begin(standing.deployment.versions if standing.deployment.shadow else ())
        self._meters.split(names, standing.deployment.split.share)
        split = standing.deployment.split
        parts = f"{names[0]} answers everyone"
        if len(names) > 1:
            listed = f" and {len(split.listed)} listed users" if split.listed else ""
            parts = f"{names[1]} answers {split.share:g} % of users{listed}, and {names[0]} the others"
        self._say(parts + ("; rows are scored with both" if standing.deployment.shadow else ""))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell(say: Callable[[str], None], line: str) -> None:
    """Say a line. A log that nobody reads any more keeps nothing from being served."""
    with suppress(OSError, ValueError):
        say(line)


def _require_same_rows(first: Loaded, other: Loaded) -> None:
    """Refuse versions that cannot answer the same requests. Raises MismatchError, ConfigurationError."""
    what = f"version {other.name}"
    require_together(other.prompts.provenance, first.prompts.provenance, what)
    if other.backend.offset_column != first.backend.offset_column:
        raise ConfigurationError(
            f"{what}: its task adds the column {other.backend.offset_column!r}, the stable version's "
            f"{first.backend.offset_column!r}; serve them apart"
        )
