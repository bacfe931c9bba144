"""A keyed store beside the bank it is written from, and beside a dictionary in memory."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma_hub.bank import KeyedStore, PromptBank
from puma_hub.bank.keyed_environment import lmdb_module
from puma_hub.benchmarks.measured import Measured, seconds_of
from puma_hub.benchmarks.prompts import source_bank
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.errors import MissingDependencyError

_FEW, _IN_MEMORY = 500, 50_000
_PROCESSES = 2


def bench_store(setting: BenchSetting) -> Iterator[Measured]:
    """Writing and opening a store, look-ups from one process and from two, and deleting a user.

    Straightforward: a transaction of plain LMDB for each user, and ``PromptBank[...]`` on Parquet files. The limits are
    writing as many bytes to one file, and a dictionary in memory, which no two processes share. Left out without LMDB.
    """
    try:
        lmdb = lmdb_module()
    except MissingDependencyError as error:
        setting.say(f"left out: {error}")
        return
    bank = source_bank(setting)
    folder = setting.folder / "store"
    for dtype in ("float32", "bfloat16"):
        took = seconds_of(lambda: bank.to_lmdb(folder, dtype=dtype), 0.0)  # noqa: B023
        size = (folder / "data.mdb").stat().st_size
        slow = _FEW / seconds_of(lambda: _one_by_one(lmdb, setting.folder / "plain", bank), 0.0)
        least = seconds_of(lambda: _bytes(setting.folder / "bytes", size), 0.0)  # noqa: B023
        what = f"write {len(bank)} users as {dtype}, {size / 1e6:.0f} MB"
        yield Measured(what, "users/s", len(bank) / took, slow, len(bank) / least, "limit: the same bytes")
        yield Measured("the same", "MB/s", size / 1e6 / took, None, size / 1e6 / least, "limit: the same bytes")

    def opening() -> None:
        KeyedStore(folder).close()

    parquet = setting.folder / "source"
    slow = 1e3 * seconds_of(lambda: PromptBank.from_pretrained(parquet), setting.seconds / 16)
    yield Measured("open", "ms", 1e3 * seconds_of(opening, setting.seconds / 16), slow, note="straightforward: a bank")
    store, ids, seconds = KeyedStore(folder), bank.user_ids, setting.seconds / 8
    held = dict(zip(ids[:_IN_MEMORY], bank.prompts_at(np.arange(len(ids))[:_IN_MEMORY])))
    slow, most = _rate(bank, ids, seconds), _rate(held, [*held], seconds)
    note = "straightforward: a bank, limit: a dictionary in memory"
    yield Measured("look-ups in one process", "users/s", _rate(store, ids, seconds), slow, most, note)
    yield Measured(
        f"look-ups in {_PROCESSES} processes", "users/s", _shared_rate(store, ids, seconds), slow, most, note
    )
    few = [ids[number :: len(ids) // 64][:64] for number in range(8)]
    batch = 64 / seconds_of(lambda: store.prompts_of(few[0]), seconds)
    slow = 64 / seconds_of(lambda: bank.prompts_at(bank.rows(few[1])), 0.0)
    yield Measured("look-ups of 64 at once", "users/s", batch, slow, note="straightforward: a bank")
    gone = iter(ids)
    took = seconds_of(lambda: store.delete([next(gone)]), 0.0)
    yield Measured(f"delete one of {len(ids)} users", "s", took, note="all files are written anew")


def _rate(prompts: Any, ids: Sequence[str], seconds: float) -> float:
    """Look-ups of random users a second."""
    order = np.random.default_rng(os.getpid()).integers(len(ids), size=4096).tolist()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for number in order[done % 4096 : done % 4096 + 16]:
            prompts[ids[number]]
        done += 16
    return done / (time.perf_counter() - began)


def _shared_rate(store: KeyedStore, ids: Sequence[str], seconds: float) -> float:
    """That of several processes together."""
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with multiprocessing.get_context(kind).Pool(_PROCESSES) as pool:
        return sum(pool.starmap(_rate, [(store, ids, seconds)] * _PROCESSES, chunksize=1))


def _one_by_one(lmdb: Any, folder: Path, bank: PromptBank) -> None:
    with lmdb.open(str(folder), map_size=2**30) as environment:
        for user, prompt in zip(bank.user_ids[:_FEW], bank.prompts_at(np.arange(len(bank))[:_FEW])):
            with environment.begin(write=True) as transaction:
                transaction.put(user.encode(), prompt.tobytes())


def _bytes(path: Path, size: int) -> None:
    part = os.urandom(2**20)
    with open(path, "wb") as file:
        for _ in range(max(1, size >> 20)):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
