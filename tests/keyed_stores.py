"""A bank to look users up in, and what tests of keyed stores share."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import torch

from puma_hub import ModelSpec, PromptBank, RatingTask
from puma_hub.tasks import RatingHead

DTYPES = ("float32", "float16", "bfloat16")
ODD_IDS = ["日本語", "zwölf", "zwo\u0308lf", "a\0b", "a\0", " ", "\n", "x" * 5000, "😀" * 300, "data.mdb", "../up"]
SPEC = ModelSpec("some/model", 24, fingerprint="0" * 16)


def many_users() -> PromptBank:
    """A bank with every odd id, a head and statistics; prompts of shape (2, 24)."""
    torch.manual_seed(0)
    ids = [*ODD_IDS, *(f"user-{number}" for number in range(3000))]
    prompts = np.random.default_rng(0).normal(size=(len(ids), 2, 24)).astype(np.float32)
    return PromptBank.from_arrays(ids, prompts, SPEC, head=RatingHead().start_at(3.0), task=RatingTask())


def version_of(number: int, users: int = 300) -> PromptBank:
    """A bank whose prompts are all ``number``, so that a mixture of two banks would show."""
    return PromptBank.from_arrays(
        [f"user-{user}" for user in range(users)], np.full((users, 1, 600), number, np.float32), ModelSpec("m", 600)
    )


def in_child(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """Run in a forked process, which ends with status 1 after an exception."""

    def run() -> None:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child


def ended_well(*children: multiprocessing.process.BaseProcess) -> bool:
    for child in children:
        child.join(60)
    return [child.exitcode for child in children] == [0] * len(children)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """By numpy, and for bfloat16 by the bits: to the nearest, ties to even."""
    if dtype != "bfloat16":
        return values.astype(dtype).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def contents(folder: Path) -> dict[bytes, bytes]:
    """The records of the data, by plain LMDB."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reading:
        return dict(reading.cursor())


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
