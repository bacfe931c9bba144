"""Keyed stores that are changed: what is gone is gone, and nothing else is lost."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import ClickTask, ModelSpec, PromptBank, RatingTask
from puma_hub.bank import KeyedStore
from puma_hub.bank.keyed_files import SEAL
from puma_hub.errors import (
    BankError,
    MismatchError,
    StorageError,
    UnknownUserError,
)
from puma_hub.storage.staging import OLD, private_folder
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.keyed_stores import DTYPES, SPEC, contents, ended_well, in_child, leftovers, many_users, rounded, version_of


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return many_users()


@pytest.mark.parametrize(("dtype", "size"), [("float32", 576), ("bfloat16", 24), ("float16", 700)])
def test_nothing_is_left_of_deleted_users(dtype: str, size: int, tmp_path: Path) -> None:
    made = make_bank(400, size=size)
    made.to_lmdb(tmp_path / "store", dtype=dtype)
    before = contents(tmp_path / "store")
    gone = ["user-3", "user-77", "user-78", "user-399"]
    keys = [hashlib.sha256(user.encode()).digest() for user in gone]
    store = KeyedStore(tmp_path / "store")
    store.delete([*gone, "user-3"])
    assert len(store) == 396 and not [user for user in gone if user in store]
    data = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    for key in keys:
        assert key not in data and before[key] not in data and before[key][16:48] not in data
    assert not leftovers(tmp_path / "store")
    store.close()
    after = contents(tmp_path / "store")
    kept = before.keys() - {*keys, b"\0"}
    assert after.keys() - {b"\0"} == kept and all(before[key] == after[key] for key in kept)
    made.remove(gone).to_lmdb(tmp_path / "copy", dtype=dtype)
    assert (tmp_path / "copy" / "data.mdb").stat().st_size == (tmp_path / "store" / "data.mdb").stat().st_size


def test_deleting_unknown_users_deletes_nobody(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    store, before = KeyedStore(tmp_path / "store"), (tmp_path / "store" / "data.mdb").read_bytes()
    with pytest.raises(UnknownUserError, match="1 of 2 users"):
        store.delete(["user-1", "nobody"])
    store.delete([])
    assert (tmp_path / "store" / "data.mdb").read_bytes() == before and "user-1" in store


@pytest.mark.parametrize("dtype", DTYPES)
def test_users_are_added_and_replaced(dtype: str, bank: PromptBank, tmp_path: Path) -> None:
    bank.select(bank.user_ids[:2000]).to_lmdb(tmp_path / "store", dtype=dtype)
    store = KeyedStore(tmp_path / "store")
    changed = PromptBank.from_arrays(
        bank.user_ids[1500:],
        bank.prompts[1500:] + 1,
        SPEC,
        head=bank.head,
        task=RatingTask(),
        statistics=bank.statistics,
    )
    store.update(changed)
    assert len(store) == len(bank) and store.dtype == dtype
    expected = rounded(bank.update(changed).select(bank.user_ids).prompts, dtype)
    assert np.array_equal(store.prompts_of(bank.user_ids), expected)
    store.verify()
    store.update(changed.remove(changed.user_ids))
    assert len(store) == len(bank)


def test_prompts_of_another_training_are_refused(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    store = KeyedStore(tmp_path / "store")
    one = bank.select(["user-1"])
    other = ModelSpec("other/model", 24, fingerprint="1" * 16)
    torch.manual_seed(5)
    wrong = {
        "other/model": one.with_provenance(model=other),
        "task": PromptBank(one.dataset, replace(one.provenance, task=ClickTask()), None),
        "template": one.with_provenance(template="click"),
        "heads": PromptBank(one.dataset, one.provenance, RatingHead()),
        "base": one.with_provenance(statistics=None),
        "items": one.with_provenance(owners="items"),
    }
    for name, given in wrong.items():
        with pytest.raises(MismatchError, match=name):
            store.update(given)
    short = PromptBank.from_arrays(["n"], np.zeros((1, 1, 24)), SPEC, head=bank.head, task=RatingTask())
    with pytest.raises(BankError, match=r"shapes \(2, 24\) and \(1, 24\)"):
        store.update(short)
    with pytest.raises(BankError, match="takes a PromptBank, got dict"):
        store.update({})
    assert len(store) == len(bank)


def test_writers_wait_for_each_other(bank: PromptBank, tmp_path: Path) -> None:
    """Each of several processes deletes users of its own; none of the deletions is lost."""
    bank.to_lmdb(tmp_path / "store")

    def deleting(first: int) -> Callable[[], None]:
        return lambda: [KeyedStore(tmp_path / "store").delete([f"user-{first + step}"]) for step in range(4)] and None

    assert ended_well(*[in_child(deleting(first)) for first in (0, 10, 20, 30)])
    store = KeyedStore(tmp_path / "store")
    assert len(store) == len(bank) - 16 and not [n for n in range(40) if n % 10 < 4 and f"user-{n}" in store]
    threads = [threading.Thread(target=store.delete, args=([f"user-{n}"],)) for n in range(100, 106)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(store) == len(bank) - 22 and not leftovers(tmp_path / "store")


@pytest.mark.parametrize("change", ["delete", "update"])
def test_a_killed_change_leaves_the_store_as_it_was_or_as_it_is_to_be(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    made = version_of(1, 2000)
    made.to_lmdb(folder)
    other = version_of(2, 2000).with_provenance(statistics=made.statistics)

    def changing() -> None:
        store = KeyedStore(folder)
        (tmp_path / "ready").touch()
        if change == "delete":
            store.delete(["user-7"])
        else:
            store.update(other)

    killed, whole = 0, 1.0
    for share in (None, *np.linspace(0, 1.1, 10)):  # of the time of a whole change, the first one
        made.to_lmdb(folder)
        (tmp_path / "ready").unlink(missing_ok=True)
        child = in_child(changing)
        while not (tmp_path / "ready").exists():
            time.sleep(0.001)
        began = time.perf_counter()
        if share is None:
            assert ended_well(child)
            whole = time.perf_counter() - began
        else:
            time.sleep(share * whole)
            child.kill()
            child.join(60)
            killed += child.exitcode == -signal.SIGKILL
        store = KeyedStore(folder)
        store.verify()
        if change == "delete":
            assert len(store) == 1999 + ("user-7" in store) and np.unique(store["user-8"]).tolist() == [1]
        else:
            assert len(store) == 2000 and len(np.unique(store.prompts_of(made.user_ids))) == 1
    assert killed > 3
    KeyedStore(folder).delete(["user-8"])
    assert not leftovers(folder)


def test_a_full_disk(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store", dtype="float16")
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    size = len(before["data.mdb"])

    def full(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        store = KeyedStore(tmp_path / "store")
        for work in (
            lambda: bank.to_lmdb(tmp_path / "new"),
            lambda: bank.to_lmdb(tmp_path / "store"),
            lambda: store.delete(["user-1"]),
            lambda: store.update(bank),
        ):
            with pytest.raises(StorageError, match=r"cannot write .*; free space or choose another folder"):
                work()
        assert "user-1" in store

    assert ended_well(*[in_child(lambda limit=limit: full(limit)) for limit in (4096, 100_000, size - 4096)])
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert os.listdir(tmp_path) == ["store"]
    bank.to_lmdb(tmp_path / "store")  # with space again; all but the seal is that of a store that always had it
    bank.to_lmdb(tmp_path / "new")
    found, expected = contents(tmp_path / "store"), contents(tmp_path / "new")
    assert found | {SEAL: b""} == expected | {SEAL: b""} and not leftovers(tmp_path / "store")


# Root may write anywhere, and only root can become a user who may not.
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_folder_that_the_reader_may_not_write(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(0o755)
        if folder.name.startswith("pytest-of-") or len(folder.parts) < 3:
            break

    def as_nobody() -> None:
        os.setuid(65534)
        store = KeyedStore(tmp_path / "store")
        assert np.array_equal(store["user-1"], bank["user-1"])
        with pytest.raises(StorageError, match="Permission denied"):
            store.delete(["user-1"])

    assert ended_well(in_child(as_nobody))
    assert "user-1" in KeyedStore(tmp_path / "store")


def test_a_process_killed_between_two_renames(tmp_path: Path) -> None:
    """The store that it had moved aside comes back when it is next opened; until then open files stay in use."""
    version_of(1).to_lmdb(tmp_path / "store")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "current").symlink_to(tmp_path / "store")
    store = KeyedStore(tmp_path / "links" / "current")

    def killed() -> None:
        aside = private_folder(tmp_path / "store")
        os.rename(tmp_path / "store", aside / OLD)

    assert ended_well(in_child(killed))
    assert store["user-1"][0, 0] == 1 and not (tmp_path / "store").exists()
    assert KeyedStore(tmp_path / "links" / "current")["user-2"][0, 0] == 1
    assert ended_well(in_child(killed))
    store.delete(["user-1"])
    assert len(store) == 299 and sorted(os.listdir(tmp_path)) == ["links", "store"]


def test_a_writer_waits_while_another_is_between_its_renames(tmp_path: Path) -> None:
    version_of(1).to_lmdb(tmp_path / "store")
    aside = private_folder(tmp_path / "store")
    os.rename(tmp_path / "store", aside / OLD)
    waiting = threading.Thread(target=version_of(2).to_lmdb, args=(tmp_path / "store",))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and not (tmp_path / "store").exists()
    os.rename(aside / OLD, tmp_path / "store")
    waiting.join(60)
    assert KeyedStore(tmp_path / "store")["user-1"][0, 0] == 2
