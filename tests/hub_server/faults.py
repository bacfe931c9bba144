"""Faults that tests make the server show."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What goes wrong, for which requests and how often."""

    kind: str  # "fail", "drop", "cut", "slow" or "tamper"
    method: str | None = None
    path_contains: str = ""
    times: int | None = 1
    after: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    after_bytes: int = 0
    seconds: float = 0.0
    chunk: int = 1024
    change: Callable[[bytes], bytes] | None = None
    hits: int = 0
    passed: int = 0

    def matches(self, method: str, path: str) -> bool:
        return (self.method is None or self.method == method) and self.path_contains in path


class Faults:
    """The active faults, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Find and count the fault for this request, if any."""
        with self._lock:
            for fault in self._faults:
                if not fault.matches(method, path) or (fault.times is not None and fault.hits >= fault.times):
                    continue
                if fault.passed < fault.after:
                    fault.passed += 1
                    continue
                fault.hits += 1
                return fault
        return None
