"""Keyed stores: look-ups against the bank and against plain LMDB, and wrong use."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import sys
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PromptBank, RatingTask
from puma_hub.bank import KeyedStore, keyed_writer
from puma_hub.bank.rounding import ROUNDED
from puma_hub.errors import (
    BankError,
    ConfigurationError,
    MissingDependencyError,
    StorageError,
    UnknownUserError,
)
from tests.conftest import make_bank
from tests.keyed_stores import DTYPES, SPEC, contents, leftovers, many_users, rounded


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return many_users()


# What a store holds


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_user_is_found(dtype: str, bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store", dtype=dtype)
    expected = rounded(bank.prompts, dtype)
    with KeyedStore(tmp_path / "store") as store:
        for user, prompt in zip(bank.user_ids, expected):
            found = store[user]
            assert found.dtype == np.float32 and np.array_equal(found, prompt) and user in store
        assert not found.flags.writeable
        some = [bank.user_ids[number] for number in np.random.default_rng(1).integers(len(bank), size=5000)]
        rows = [bank.user_ids.index(user) for user in some[:200]]
        assert np.array_equal(store.prompts_of(some[:200]), expected[rows])
        assert np.array_equal(store.prompts_of(some), expected[bank.rows(some)])
        assert np.array_equal(store.prompts_of("zwölf")[0], store["zwölf"]) and store.prompts_of([]).shape == (0, 2, 24)
        assert (len(store), store.shape, store.model, store.dtype) == (len(bank), (2, 24), SPEC, dtype)
        assert store.owners == bank.owners and store.provenance.task == RatingTask()
        assert store.provenance.statistics == bank.statistics
        head = store.head
        assert head is not None and bank.head is not None
        assert all(torch.equal(value, bank.head.state_dict()[name]) for name, value in head.state_dict().items())
        assert f"KeyedStore({len(bank)} users, prompts 2 x 24 as {dtype}, model 'some/model')" == repr(store)
        store.verify()
    assert sorted(os.listdir(tmp_path / "store")) == ["data.mdb", "head.safetensors", "store.json"]
    assert not leftovers(tmp_path / "store")


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_lmdb_reads_the_data(dtype: str, bank: PromptBank, tmp_path: Path) -> None:
    """As another program would: the hash of the id, little-endian values, and a checksum after them."""
    bank.to_lmdb(tmp_path / "store", dtype=dtype)
    found = contents(tmp_path / "store")
    assert len(found) == len(bank) + 1
    for user, prompt in zip(bank.user_ids, rounded(bank.prompts, dtype)):
        key = hashlib.sha256(user.encode()).digest()
        values, check = found[key][:-4], found[key][-4:]
        if dtype == "bfloat16":
            numbers = (np.frombuffer(values, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = np.frombuffer(values, {"float32": "<f4", "float16": "<f2"}[dtype]).astype(np.float32)
        assert np.array_equal(numbers.reshape(2, 24), prompt)
        assert int.from_bytes(check, "little") == zlib.crc32(key + values)
    data = (tmp_path / "store" / "data.mdb").read_bytes()
    assert not [user for user in ["user-17", "日本語", "zwölf", "x" * 5000] if user.encode() in data]
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert facts["data_sha256"] == hashlib.sha256(data).hexdigest() and "user-17" not in json.dumps(facts)


def test_the_rounding_is_told(bank: PromptBank, tmp_path: Path) -> None:
    told = {}
    for dtype in DTYPES:
        bank.to_lmdb(tmp_path / "store", dtype=dtype)
        told[dtype] = KeyedStore(tmp_path / "store").provenance.details.get(ROUNDED)
    assert told["float32"] is None
    spread = np.sqrt(np.mean((bank.prompts - bank.prompts.mean(axis=0)) ** 2))
    for dtype in ("float16", "bfloat16"):
        error = np.sqrt(np.mean((rounded(bank.prompts, dtype) - bank.prompts) ** 2)) / spread
        assert told[dtype]["dtype"] == dtype and told[dtype]["error"] == pytest.approx(error, rel=0.05)
    # A bank that was rounded coarsely before stays known as that.
    before = {"dtype": "int8", "step": 0.03, "error": 0.01}
    coarse = bank.with_provenance(details={ROUNDED: before})
    coarse.to_lmdb(tmp_path / "store", dtype="bfloat16")
    assert KeyedStore(tmp_path / "store").provenance.details[ROUNDED] == before


def test_what_is_too_large_for_float16_is_refused(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store", dtype="float16")
    large = PromptBank.from_arrays(["a", "b"], np.full((2, 2, 24), 70000.0), SPEC)
    with pytest.raises(BankError, match="too large for float16"):
        large.to_lmdb(tmp_path / "store", dtype="float16")
    store = KeyedStore(tmp_path / "store")
    with pytest.raises(BankError, match="too large for float16"):
        store.update(PromptBank(large.dataset, bank.provenance, bank.head))
    assert len(store) == len(bank) and "a" not in store and not leftovers(tmp_path / "store")
    large.to_lmdb(tmp_path / "large", dtype="bfloat16")
    assert np.isfinite(KeyedStore(tmp_path / "large")["b"]).all()


def test_a_bank_in_files_and_banks_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_bank(500, size=40, owners="items", template="rating")
    made.save_pretrained(tmp_path / "bank", max_shard_size=20_000)
    PromptBank.from_pretrained(tmp_path / "bank").to_lmdb(str(tmp_path / "store"))
    assert "writing: 100%" in capsys.readouterr().err
    store = KeyedStore(str(tmp_path / "store"))
    assert all(np.array_equal(store[user], prompt) for user, prompt in made)
    assert store.head is None and store.owners == made.owners and store.provenance.template == made.provenance.template
    made.remove(made.user_ids).to_lmdb(tmp_path / "empty", dtype="bfloat16")
    empty = KeyedStore(tmp_path / "empty")
    assert len(empty) == 0 and "user-1" not in empty and empty.get("user-1") is None
    empty.update(made)
    assert len(empty) == 500
    one = PromptBank.from_arrays(["only"], np.ones((1, 3, 40), np.float32), ModelSpec("m", 40))
    one.to_lmdb(tmp_path / "one", dtype="float16")
    assert np.array_equal(KeyedStore(tmp_path / "one")["only"], np.ones((3, 40)))


def test_records_that_do_not_fit_into_memory_are_sorted_on_the_disk(
    bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.to_lmdb(tmp_path / "whole")
    monkeypatch.setattr(keyed_writer, "_SORTED_BYTES", 100_000)
    monkeypatch.setattr(keyed_writer, "_READ_BYTES", 3_000)
    bank.to_lmdb(tmp_path / "parts")
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert whole.pop(b"\0") != parts.pop(b"\0") and whole == parts and len(whole) == len(bank)
    sizes = [(tmp_path / name / "data.mdb").stat().st_size for name in ("whole", "parts")]
    assert sizes[0] == sizes[1] and sorted(os.listdir(tmp_path)) == ["parts", "whole"]


# Wrong use


def test_unknown_users_are_counted_and_not_named(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    store = KeyedStore(tmp_path / "store")
    for user in ("nobody-1", "", "\ud800", "x" * 4999, "zwölf ", "a\0c"):
        assert user not in store and store.get(user) is None
        with pytest.raises(UnknownUserError, match=f"not among the {len(bank)} users") as caught:
            store[user]
        assert not user or user not in str(caught.value)
    with pytest.raises(UnknownUserError, match=f"2 of 3 users are not in this bank of {len(bank)}.*position 1"):
        store.prompts_of(["user-1", "nobody-1", "nobody-2"])
    assert 5 not in store and None not in store
    for wrong in (5, None, b"user-1", ["user-1"]):
        with pytest.raises(BankError, match="takes the id of one user"):
            store[wrong]  # type: ignore[index]
    with pytest.raises(BankError, match="must be strings"):
        store.prompts_of([1, 2])  # type: ignore[list-item]
    with pytest.raises(BankError, match="cannot list its users"):
        list(store)


def test_dtypes_that_are_none(bank: PromptBank, tmp_path: Path) -> None:
    for wrong in ("int8", "float64", "", None, 16):
        with pytest.raises(ConfigurationError, match="holds float32, float16, bfloat16"):
            bank.to_lmdb(tmp_path / "store", dtype=wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_without_lmdb(bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.to_lmdb(tmp_path / "store")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for work in (lambda: bank.to_lmdb(tmp_path / "other"), lambda: KeyedStore(tmp_path / "store")):
        with pytest.raises(MissingDependencyError, match=re.escape("pip install 'puma_hub[serve]'")):
            work()
    assert not (tmp_path / "other").exists()


def test_a_closed_store_and_one_that_is_sent_elsewhere(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    first, second = KeyedStore(tmp_path / "store"), KeyedStore(tmp_path / "up" / ".." / "store")
    first.close()
    first.close()
    assert repr(first) == "KeyedStore(closed)"
    for work in (lambda: first["user-1"], lambda: len(first), lambda: first.head, lambda: "user-1" in first):
        with pytest.raises(StorageError, match="is closed; open it again"):
            work()
    sent = pickle.loads(pickle.dumps(second))
    assert np.array_equal(sent["user-1"], second["user-1"])
    second.close()
    sent.close()
    with (  # LMDB takes one environment a file and process; this one makes its lock file
        lmdb.open(str(tmp_path / "store")),
        pytest.raises(StorageError, match="open in this process by other means"),
    ):
        KeyedStore(tmp_path / "store")
    assert "user-1" in KeyedStore(tmp_path / "store")
    bank.to_lmdb(tmp_path / "store")  # over the lock file
    with pytest.raises(StorageError, match="as text or path, got int"):
        KeyedStore(5)  # type: ignore[arg-type]


def test_folders_of_other_kinds_are_left_alone(bank: PromptBank, tmp_path: Path) -> None:
    bank.select(["user-1"]).save_pretrained(tmp_path / "bank")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "data.mdb").write_bytes(b"another program's")
    bank.to_lmdb(tmp_path / "store")
    (tmp_path / "store" / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("bank", "notes", "store"):
        with pytest.raises(StorageError, match=r"would be replaced; choose a folder"):
            bank.to_lmdb(tmp_path / name)
    with pytest.raises(StorageError, match=r"README\.md"):
        KeyedStore(tmp_path / "store").delete(["user-1"])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, message in (("bank", "not a keyed store"), ("notes", "not a keyed store"), ("none", "does not exist")):
        with pytest.raises(StorageError, match=message):
            KeyedStore(tmp_path / name)
    with pytest.raises(StorageError, match=r"open it with puma_hub\.bank\.KeyedStore"):
        PromptBank.from_pretrained(tmp_path / "store")


def test_the_page_runs_as_it_is(bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "keyed_store.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    bank.save_pretrained("target-bank")
    bank.select(["user-7"]).save_pretrained("new-users")
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "keyed_store.md", "exec"), names)
    assert "store" in names
