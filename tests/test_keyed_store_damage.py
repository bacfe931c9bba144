"""Damaged keyed stores: an error with the remedy, and never a wrong prompt."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import PromptBank
from puma_hub.bank import KeyedStore
from puma_hub.errors import (
    BankError,
    CheckpointError,
    PumaHubError,
    UnknownUserError,
)
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.keyed_stores import many_users


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return many_users()


def cut(folder: Path) -> None:
    os.truncate(folder / "data.mdb", (folder / "data.mdb").stat().st_size // 2)


def emptied(folder: Path) -> None:
    (folder / "data.mdb").write_bytes(b"")


def without_data(folder: Path) -> None:
    (folder / "data.mdb").unlink()


def overwritten(folder: Path) -> None:
    (folder / "data.mdb").write_bytes(b"\xff" * (folder / "data.mdb").stat().st_size)


def of_another_version(folder: Path) -> None:
    """The number of LMDB's format, in both of its first pages."""
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in (0, 4096):
        assert data[page + 20 : page + 24] == b"\1\0\0\0"
        data[page + 20] = 7
    (folder / "data.mdb").write_bytes(data)


def of_another_architecture(folder: Path) -> None:
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in (0, 4096):
        data[page + 16 : page + 24] = data[page + 16 : page + 24][::-1]
    (folder / "data.mdb").write_bytes(data)


def described_by_another(folder: Path) -> None:
    shutil.copy(folder.parent / "other" / "store.json", folder)
    shutil.copy(folder.parent / "other" / "head.safetensors", folder)


def with_the_head_of_another(folder: Path) -> None:
    shutil.copy(folder.parent / "other" / "head.safetensors", folder)


def without_a_head(folder: Path) -> None:
    (folder / "head.safetensors").unlink()


def changed_description(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        facts = json.loads((folder / "store.json").read_text())
        (folder / "store.json").write_text(json.dumps(facts | changes))

    return change


DAMAGE = {
    "cut": (cut, r"has \d+ bytes of \d+"),
    "emptied": (emptied, "has 0 bytes"),
    "without data": (without_data, "data.mdb is missing"),
    "overwritten": (overwritten, "is damaged"),
    "another version": (of_another_version, "is damaged.*format v7"),
    "another architecture": (of_another_architecture, "is damaged.*MDB_INVALID"),
    "another's description": (described_by_another, "do not belong together"),
    "another's head": (with_the_head_of_another, "is of another store"),
    "no head": (without_a_head, "rating head"),
    "fewer users": (changed_description(users=5), "do not belong together"),
    "no dtype": (changed_description(dtype=None), "malformed.*float32"),
    "no seal": (changed_description(seal="zz"), "malformed"),
    "no hash": (changed_description(data_sha256="0"), "malformed.*SHA-256"),
    "no model": (changed_description(model=5), "malformed"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_not_opened(damage: str, bank: PromptBank, tmp_path: Path) -> None:
    torch.manual_seed(7)
    PromptBank(bank.dataset, bank.provenance, RatingHead()).to_lmdb(tmp_path / "other")
    bank.to_lmdb(tmp_path / "store")
    change, message = DAMAGE[damage]
    change(tmp_path / "store")
    with pytest.raises(CheckpointError, match=message) as caught:
        KeyedStore(tmp_path / "store")
    assert re.search("make it again|make the store again", str(caught.value))


def test_a_newer_format_is_told(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    changed_description(store_format=99, puma_hub_version="9.1")(tmp_path / "store")
    with pytest.raises(BankError, match=re.escape("pip install -U 'puma_hub>=9.1'")):
        KeyedStore(tmp_path / "store")


def test_values_of_another_length_are_refused(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    for changes in ({"dtype": "bfloat16"}, {"prompt_length": 1, "statistics": None}):
        bank.to_lmdb(tmp_path / "store")
        changed_description(**changes)(tmp_path / "store")
        store = KeyedStore(tmp_path / "store")
        with pytest.raises(CheckpointError, match="not those that were written"):
            store["user-1"]
        with pytest.raises(CheckpointError, match="not those that were written"):
            store.prompts_of(["user-1", "user-2"])


@pytest.mark.parametrize("kind", ["bytes", "page", "swapped pages", "swapped values"])
def test_no_damage_gives_a_wrong_prompt(kind: str, tmp_path: Path) -> None:
    """A look-up gives the user's prompt or an error, whatever has happened to the file."""
    made = make_bank(200, size=600)
    made.to_lmdb(tmp_path / "sound")
    data = np.fromfile(tmp_path / "sound" / "data.mdb", np.uint8)
    starts = [data.tobytes().find(prompt.tobytes()) for prompt in made.prompts]
    value = np.arange(made.prompts[0].nbytes + 4)  # with its checksum
    numbers = np.random.default_rng(0)
    errors = 0
    for trial in range(12):
        folder = tmp_path / str(trial)
        shutil.copytree(tmp_path / "sound", folder)
        bad = data.copy()
        first, second = numbers.choice(200, 2, replace=False)
        pages = bad.reshape(-1, 4096)
        if kind == "bytes":
            bad[starts[first] + numbers.choice(value, 3)] ^= 0x40
        elif kind == "page":
            pages[numbers.integers(len(pages))] = 0
        elif kind == "swapped pages":
            pages[[first, second]] = pages[[second, first]]
        else:
            bad[starts[first] + value], bad[starts[second] + value] = (
                data[starts[second] + value],
                data[starts[first] + value],
            )
        bad.tofile(folder / "data.mdb")
        try:
            store = KeyedStore(folder)
        except CheckpointError:
            errors += 1
            continue
        for user, prompt in made:
            try:
                assert np.array_equal(store[user], prompt)
            except (CheckpointError, UnknownUserError):
                errors += 1
        for work in (store.verify, lambda store=store: store.delete(["user-1"])):
            with pytest.raises(CheckpointError, match="is not what was written"):
                work()
    assert errors >= 12


def test_data_that_is_cut_while_it_is_open(bank: PromptBank, tmp_path: Path) -> None:
    bank.to_lmdb(tmp_path / "store")
    store = KeyedStore(tmp_path / "store")
    cut(tmp_path / "store")
    with pytest.raises(PumaHubError, match=r"has \d+ bytes of \d+"):
        store["user-1"]
