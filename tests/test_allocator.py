"""Freed memory that is kept: fewer page faults in a process that frees and asks for the same again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from puma_hub.allocator import keep_freed_memory

_PROGRAM = """
import resource, sys
import numpy as np
from puma_hub.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    np.ones(24_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones(24_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries of C have no such setting")
def test_pages_are_not_asked_for_again() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, check=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept < 100 < 1000 < given_back


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
