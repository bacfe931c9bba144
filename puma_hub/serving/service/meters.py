"""What is counted, for Prometheus. No user's id, no key and no text is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from puma_hub.errors import MissingDependencyError

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Meters:
    """Counts of one service.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise MissingDependencyError(
                "the service needs prometheus-client: pip install 'puma_hub[serve]'"
            ) from error
        self._prometheus: Any = prometheus_client
        self._registry = prometheus_client.CollectorRegistry()
        kinds: dict[str, Any] = {"registry": self._registry}
        self._requests = prometheus_client.Counter(
            "puma_hub_requests", "Requests that were answered.", ["endpoint", "status"], **kinds
        )
        self._seconds = prometheus_client.Histogram(
            "puma_hub_request_seconds", "Time to the end of the answer.", ["endpoint"], buckets=_SECONDS, **kinds
        )
        self._batches = prometheus_client.Histogram(
            "puma_hub_batch_size", "Rows or texts that were worked on together.", ["queue"], buckets=_ENTRIES, **kinds
        )
        self._length = prometheus_client.Gauge("puma_hub_queue_length", "Rows or texts that wait.", ["queue"], **kinds)
        self._waiting: Callable[[], dict[str, int]] = dict
        self._unknown = prometheus_client.Counter(
            "puma_hub_unknown_users", "Rows and texts of users without a prompt.", **kinds
        )
        self._tokens = prometheus_client.Counter("puma_hub_new_tokens", "Tokens that were written.", **kinds)
        self._ready = prometheus_client.Gauge("puma_hub_ready", "1 when the model is loaded.", **kinds)
        self._versions = prometheus_client.Counter(
            "puma_hub_version_answers", "Rows and texts that were answered.", ["version"], **kinds
        )
        self._share = prometheus_client.Gauge(
            "puma_hub_version_share", "Of all users, without those of the list, in per cent.", ["version"], **kinds
        )
        self._shadow = {
            name: prometheus_client.Counter(f"puma_hub_shadow_{name}", about, **kinds)
            for name, about in (
                ("rows", "Rows that both versions scored."),
                ("same_answers", "Of these, those with the same most likely answer."),
                ("difference", "The sum of their absolute differences in score."),
                ("left_out", "Rows that were to be scored by both, and were not."),
            )
        }
        self._children: dict[tuple[Any, ...], Any] = {}
        self.answered: Counter[tuple[str, int]] = Counter()
        self.answered_by_version: Counter[str] = Counter()
        self.batched: Counter[str] = Counter()
        self.worked: Counter[str] = Counter()
        self.unknown = 0
        self.tokens = 0

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.answered[endpoint, status] += 1
        self._child(self._requests, endpoint, str(status)).inc()
        self._child(self._seconds, endpoint).observe(seconds)

    def batch(self, queue: str, size: int) -> None:
        """A batch was begun."""
        self.batched[queue] += 1
        self.worked[queue] += size
        self._child(self._batches, queue).observe(size)

    def unknown_user(self) -> None:
        self.unknown += 1
        self._unknown.inc()

    def wrote(self, tokens: int) -> None:
        self.tokens += tokens
        self._tokens.inc(tokens)

    def answered_by(self, version: str, number: int) -> None:
        """A version has answered so many rows or texts."""
        self.answered_by_version[version] += number
        self._child(self._versions, version).inc(number)

    def split(self, versions: Sequence[str], share: float) -> None:
        """The stable version, and the candidate with its share in per cent, if there is one."""
        self._share.clear()
        shares = (100.0 - share, share) if len(versions) > 1 else (100.0,)
        for version, part in zip(versions, shares):
            self._share.labels(version).set(part)

    def compared(self, same: bool, difference: float) -> None:
        """Both versions have scored a row."""
        self._shadow["rows"].inc()
        self._shadow["same_answers"].inc(same)
        self._shadow["difference"].inc(difference)

    def not_compared(self, rows: int) -> None:
        self._shadow["left_out"].inc(rows)

    def watch(self, waiting: Callable[[], dict[str, int]]) -> None:
        """Read the queues' lengths from ``waiting`` from now on; the model is loaded."""
        self._waiting = waiting
        self._ready.set(1)

    def page(self) -> tuple[bytes, str]:
        """The figures in Prometheus's text format, and its media type."""
        for queue, entries in self._waiting().items():
            self._child(self._length, queue).set(entries)
        return self._prometheus.generate_latest(self._registry), self._prometheus.CONTENT_TYPE_LATEST

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        endpoints: dict[str, dict[str, int]] = {}
        for (endpoint, status), number in sorted(self.answered.items()):
            endpoints.setdefault(endpoint, {})[str(status)] = number
        queues = {name: {"batches": self.batched[name], "entries": self.worked[name]} for name in sorted(self.batched)}
        report = {"requests": endpoints, "queues": queues, "unknown_users": self.unknown, "new_tokens": self.tokens}
        return report | ({"versions": dict(self.answered_by_version)} if self.answered_by_version else {})

    def _child(self, meter: Any, *labels: str) -> Any:
        child = self._children.get((id(meter), *labels))
        if child is None:
            child = self._children[(id(meter), *labels)] = meter.labels(*labels)
        return child
