"""The memory that a process has freed: whether it keeps it for what comes next, or gives it back to the system."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep up to 2 GiB of freed memory instead of giving it back. Return whether it does.

    Each step of a training frees what it needed and asks for as much again. Where large pieces are given back, the
    system has to find and clear them for each step. This is a matter of the whole process, so programs call it, and no
    import does. Other systems and other libraries of C are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    wanted = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: _LARGEST, _TOP_PAD: 2**26}
    done = [mallopt(option, value) for option, value in wanted.items()]
    return all(done)
