"""Keyed stores in several processes and threads, while their folder is replaced."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PromptBank
from puma_hub.bank import KeyedStore
from puma_hub.errors import (
    MismatchError,
    StorageError,
)
from puma_hub.tasks import RatingHead
from tests.keyed_stores import ended_well, in_child, many_users, version_of


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return many_users()


def reading(folder: Path, until: Path) -> None:
    """Look users up until a file is there: always one whole state, and never an older one than before."""
    store, seen, numbers = KeyedStore(folder), set(), np.random.default_rng(os.getpid())
    newest = 0.0
    while not until.exists():
        user = f"user-{numbers.integers(300)}"
        values = np.unique(store[user]) if numbers.random() < 0.5 else np.unique(store.prompts_of([user, "user-0"]))
        assert len(values) == 1 and values[0] >= newest
        newest = float(values[0])
        seen.add(newest)
    assert len(seen) > 3, seen


def test_processes_and_threads_read_while_another_process_replaces_the_folder(tmp_path: Path) -> None:
    folder, stop = tmp_path / "store", tmp_path / "stop"
    version_of(0).to_lmdb(folder)
    children = [in_child(lambda: reading(folder, stop)) for _ in range(2)]
    children.append(in_child(lambda: [version_of(number).to_lmdb(folder) for number in range(1, 16)]))
    failed: list[BaseException] = []

    def thread() -> None:
        try:
            reading(folder, stop)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    children[-1].join(60)
    stop.touch()
    assert ended_well(*children)
    for one in threads:
        one.join(60)
    assert not failed, failed
    assert KeyedStore(folder)["user-1"][0, 0] == 15


def test_a_deleted_user_is_gone_with_the_next_look_up(tmp_path: Path) -> None:
    version_of(1).to_lmdb(tmp_path / "store")
    (tmp_path / "current").symlink_to(tmp_path / "store")
    here, linked = KeyedStore(tmp_path / "store"), KeyedStore(tmp_path / "current")
    assert "user-5" in here and "user-5" in linked
    assert ended_well(in_child(lambda: KeyedStore(tmp_path / "store").delete(["user-5"])))
    assert "user-5" not in here and linked.get("user-5") is None and len(here) == len(linked) == 299
    version_of(2).to_lmdb(tmp_path / "new")
    (tmp_path / "next").symlink_to(tmp_path / "new")
    (tmp_path / "next").rename(tmp_path / "current")
    assert linked["user-5"][0, 0] == 2 and "user-5" not in here


def test_a_missing_folder_leaves_the_open_files_in_use(tmp_path: Path) -> None:
    version_of(1).to_lmdb(tmp_path / "store")
    store = KeyedStore(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "aside")
    assert store["user-1"][0, 0] == 1 and len(store) == 300
    with pytest.raises(StorageError, match="does not exist"):
        KeyedStore(tmp_path / "store")
    with pytest.raises(StorageError):
        store.verify()
    version_of(2).to_lmdb(tmp_path / "store")
    assert store["user-1"][0, 0] == 2


def test_another_kind_of_bank_in_its_place_is_not_taken_for_the_old_one(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    torch.manual_seed(9)
    wrong = {
        "LLM or prompt length": bank.with_provenance(model=ModelSpec("other/model", 24, fingerprint="1" * 16)),
        "rating head": PromptBank(bank.dataset, bank.provenance, RatingHead()),
        "template": bank.with_provenance(template="a <item> b <user> c"),
        "owners": bank.with_provenance(owners="items"),
    }
    for what, other in wrong.items():
        bank.to_lmdb(tmp_path / "store")
        store = KeyedStore(tmp_path / "store")
        other.to_lmdb(tmp_path / "store")
        for _ in range(2):
            with pytest.raises(MismatchError, match=f"another {what}.*open it again"):
                store["user-1"]
        assert KeyedStore(tmp_path / "store").provenance.owners == other.provenance.owners
    retrained = bank.with_provenance(statistics=None)  # of another base; look-ups need none
    bank.to_lmdb(tmp_path / "store")
    store = KeyedStore(tmp_path / "store")
    retrained.to_lmdb(tmp_path / "store", dtype="bfloat16")
    assert store.dtype == "bfloat16" and store.provenance.statistics is None


def test_a_forked_child_goes_on_with_the_store(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    store, stop = KeyedStore(tmp_path / "store"), threading.Event()
    expected = bank.prompts

    def look_up(times: int = 300) -> None:
        for number in range(times):
            assert np.array_equal(store[bank.user_ids[number]], expected[number])

    def all_the_time() -> None:
        while not stop.is_set():
            look_up(50)

    look_up()
    threads = [threading.Thread(target=all_the_time) for _ in range(2)]  # in the middle of look-ups at each fork
    for thread in threads:
        thread.start()
    try:
        children = [in_child(look_up) for _ in range(10)]
        assert ended_well(*children)
        store.delete(["user-2000"])

        def replaced() -> None:
            look_up()
            assert "user-2000" not in store
            store.delete(["user-2001"])
            assert len(store) == len(bank) - 2

        assert ended_well(in_child(replaced))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert "user-2001" not in store
    look_up()
