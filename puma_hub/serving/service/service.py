"""The state of a running service: its back end, limits, keys and figures."""

from __future__ import annotations

import time

from puma_hub.serving.service.backend import Backend
from puma_hub.serving.service.fields import RowFields
from puma_hub.serving.service.keys import ApiKeys, RateLimit
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.meters import Meters
from puma_hub.serving.service.refusal import Refusal, overloaded, stopping

_LOADING_SECONDS = 10


class Service:
    """What requests are answered from. It is ready once it has a back end.

    Args:
        model: the LLM's name in requests.
        limits: on requests.
        keys: that requests need.
        only_here: refuse requests that address another host than this one, as those of web pages do.
    """

    def __init__(
        self, model: str, limits: ServiceLimits, keys: ApiKeys, meters: Meters, *, only_here: bool = False
    ) -> None:
        self.model, self.limits, self.keys, self.meters, self.only_here = model, limits, keys, meters, only_here
        self.rate = RateLimit(limits.rate)
        self.stopping = False
        self.started = int(time.time())
        self._backend: Backend | None = None
        self._fields: RowFields | None = None

    def start(self, backend: Backend) -> None:
        """Answer requests with ``backend`` from now on.

        Raises:
            ConfigurationError: its task's offset has the name of another field.
        """
        self._fields = RowFields(backend.offset_column, self.limits)
        backend.begin()
        self._backend = backend
        self.meters.watch(backend.waiting)

    @property
    def ready(self) -> bool:
        return self._backend is not None and not self.stopping

    @property
    def backend(self) -> Backend:
        """The back end.

        Raises:
            Refusal: the model is still loading, or the service is stopping.
        """
        if self.stopping:
            raise stopping()
        if self._backend is None:
            raise overloaded("the model is still loading; ask again later", _LOADING_SECONDS)
        return self._backend

    @property
    def fields(self) -> RowFields:
        """The fields of rows. Raises the same errors as :attr:`backend`."""
        _ = self.backend
        assert self._fields is not None
        return self._fields

    def require_model(self, name: str | None) -> None:
        """Check a request's field ``model``.

        Raises:
            Refusal: it is another model.
        """
        if name not in (None, self.model):
            raise Refusal(404, f"the only model here is {self.model!r}", "model_not_found", param="model")

    async def close(self, seconds: float) -> None:
        """Let the back end finish what it has accepted, in so many seconds."""
        if self._backend is not None:
            await self._backend.close(seconds)
