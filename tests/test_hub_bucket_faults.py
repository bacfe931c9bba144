"""Banks in buckets while others write, processes are killed and requests fail: the old bank or the new one is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi

from puma_hub import ModelSpec, PromptBank
from puma_hub.bank import delete_users, update_users
from puma_hub.errors import (
    CheckpointError,
    HubAccessError,
    HubError,
    HubUnavailableError,
    MismatchError,
    PumaHubError,
    UnknownUserError,
)
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.hub_server.storage import BucketFile
from tests.test_hub_bank_changes import bank_of
from tests.test_hub_banks import full_bank, same
from tests.test_hub_buckets import ADDRESS, BUCKET, names

CHANGES: dict[str, Callable[[], object]] = {
    "push": lambda: fresh(9).push_to_bucket(ADDRESS),
    "delete": lambda: delete_users(ADDRESS, ["user-1"]),
}
PUSH = """
from puma_hub import PromptBank
PromptBank.from_pretrained({folder!r}).push_to_bucket({address!r})
"""


def fresh(users: int) -> PromptBank:
    """New prompts each time, since the client does not send again what it has sent; all of one training."""
    ids = [f"user-{number}" for number in range(users)]
    prompts = np.random.default_rng().normal(size=(users, 1, 32)).astype(np.float32)
    return PromptBank.from_arrays(ids, prompts, ModelSpec("source", 32), statistics=make_bank(4).statistics)


def swapped(hub: HubServer, bank: PromptBank) -> Callable[[bytes], bytes]:
    """A fault in which somebody else publishes ``bank`` at the moment a content is read."""
    bank.push_to_bucket("hf://buckets/alice/theirs")
    theirs = dict(hub.bucket("alice/theirs").entries)

    def overtake(content: bytes) -> bytes:
        hub.bucket(BUCKET).entries = dict(theirs)
        return content

    return overtake


@pytest.mark.parametrize(("change", "step"), [(change, step) for change in ("push", "delete") for step in range(3)])
def test_each_step_leaves_the_old_bank_or_the_new(
    hub: HubServer, login: Callable[..., None], change: str, step: int
) -> None:
    """The steps: new files, the description, deletion of the old files."""
    login("alice")
    old = fresh(8)
    old.push_to_bucket(ADDRESS)
    before = set(hub.bucket(BUCKET).entries)
    failing = hub.fail(403, path_contains="/batch", after=step, times=None)
    with pytest.raises(HubAccessError, match="lacks the right"):
        CHANGES[change]()
    assert failing.hits and failing.passed == step and before <= set(hub.bucket(BUCKET).entries)
    hub.empty_cache()
    loaded = PromptBank.from_pretrained(ADDRESS)
    users = {"push": 9, "delete": 7}[change]
    assert same(loaded, old) if step < 2 else len(loaded) == users
    hub.clear_faults()
    if change == "delete" and step == 2:  # the bank lacks the user already, the bucket not yet
        with pytest.raises(UnknownUserError):
            CHANGES[change]()
    else:
        CHANGES[change]()
    assert len(PromptBank.from_pretrained(ADDRESS)) == users
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]


def test_a_killed_push(hub: HubServer, login: Callable[..., None], tmp_path: Any) -> None:
    login("alice")
    old, new = fresh(8), fresh(30)
    old.push_to_bucket(ADDRESS, max_shard_size=500)
    new.save_pretrained(tmp_path / "bank")
    before = set(hub.bucket(BUCKET).entries)
    slow = hub.slow(60, path_contains="/batch")  # it is done, and not answered
    child = subprocess.Popen([sys.executable, "-c", PUSH.format(folder=str(tmp_path / "bank"), address=ADDRESS)])
    while child.poll() is None and not (slow.hits and len(hub.bucket(BUCKET).entries) > len(before)):
        time.sleep(0.05)
    child.kill()
    child.wait()
    hub.clear_faults()
    assert len(set(hub.bucket(BUCKET).entries) - before) == 1 and same(PromptBank.from_pretrained(ADDRESS), old)
    new.push_to_bucket(ADDRESS)
    assert same(PromptBank.from_pretrained(ADDRESS), new)
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]


# Readers in between


@pytest.mark.parametrize("users", [None, ["user-1", "user-2"]])
def test_a_reader_between_two_banks_begins_again(
    hub: HubServer, login: Callable[..., None], users: list[str] | None
) -> None:
    """Its description is old, and the files that it names are gone."""
    login("alice")
    fresh(4).push_to_bucket(ADDRESS)
    new = fresh(5)
    overtaken = hub.tamper(swapped(hub, new), method="GET", path_contains="/xet-data/")
    loaded = PromptBank.from_pretrained(ADDRESS, users=users)
    assert overtaken.hits == 1 and loaded.user_ids == (users or new.user_ids)
    assert all(np.array_equal(loaded[user], new[user]) for user in loaded.user_ids)


def test_who_reads_some_users_begins_again_in_the_middle_of_a_file(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    fresh(4).push_to_bucket(ADDRESS, max_shard_size=300)
    new = fresh(5)
    overtaken = hub.tamper(swapped(hub, new), method="GET", path_contains="/resolve/")
    loaded = PromptBank.from_pretrained(ADDRESS, users=["user-3"])
    assert overtaken.hits == 1 and np.array_equal(loaded["user-3"], new["user-3"])


def test_a_file_that_stays_away(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    fresh(4).push_to_bucket(ADDRESS)
    HfApi().batch_bucket_files(BUCKET, delete=[name for name in hub.bucket(BUCKET).entries if "train" in name])
    for users in (None, ["user-1"]):
        with pytest.raises(CheckpointError, match=r"lacks data/train-00000-of-00001-.*publish it again"):
            PromptBank.from_pretrained(ADDRESS, users=users)


# Writers at the same time


def test_no_update_is_lost_that_comes_between(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    make_bank(4).push_to_bucket(ADDRESS)
    overtaken = hub.tamper(
        swapped(hub, make_bank(4).update(bank_of("theirs"))), method="GET", path_contains="/xet-data/", after=1
    )
    update_users(ADDRESS, bank_of("ours"))
    assert overtaken.hits == 1
    assert PromptBank.from_pretrained(ADDRESS).user_ids == ["ours", "theirs", *make_bank(4).user_ids]
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]


def test_who_never_comes_first_is_told(
    hub: HubServer, login: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puma_hub.bank.bucket_changes._PAUSE", 0.0)
    login("alice")
    make_bank(4).push_to_bucket(ADDRESS)

    def touched(content: bytes) -> bytes:
        entries = hub.bucket(BUCKET).entries
        entries["bank.json"] = BucketFile(entries["bank.json"].xet_hash, entries["bank.json"].mtime)
        return content

    hub.tamper(touched, method="GET", path_contains="/xet-data/", times=None)
    with pytest.raises(HubError, match=r"somebody else at the same time.*one process write at a time"):
        delete_users(ADDRESS, ["user-1"])
    hub.clear_faults()
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]
    assert "user-1" in PromptBank.from_pretrained(ADDRESS)


def test_files_that_another_process_deleted_are_written_again(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    fresh(4).push_to_bucket(ADDRESS)
    new = fresh(5)

    def clean(content: bytes) -> bytes:
        entries = hub.bucket(BUCKET).entries
        hub.bucket(BUCKET).entries = {"bank.json": entries["bank.json"]}
        return content

    deleted = hub.tamper(clean, method="GET", path_contains="/xet-data/")
    new.push_to_bucket(ADDRESS)
    assert deleted.hits == 1 and same(PromptBank.from_pretrained(ADDRESS), new)


def test_two_pushes_one_of_which_is_told(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    fresh(4).push_to_bucket(ADDRESS)
    theirs = fresh(6)
    overtaken = hub.tamper(swapped(hub, theirs), method="GET", path_contains="/xet-data/")
    with pytest.raises(HubError, match="somebody else at the same time"):
        fresh(5).push_to_bucket(ADDRESS)
    assert overtaken.hits == 1
    theirs.push_to_bucket(ADDRESS)  # as they would by themselves at their end, where ours took their files away
    assert same(PromptBank.from_pretrained(ADDRESS), theirs)
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]


# Requests that fail


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [
        ("/xet/v1/xorbs/", 500, HubUnavailableError),
        ("/xet/v1/shards", 403, HubAccessError),
        ("xet-write-token", 401, HubAccessError),
        ("/batch", 500, HubUnavailableError),
        ("paths-info", 429, HubUnavailableError),
    ],
)
def test_a_push_that_fails(
    hub: HubServer, login: Callable[..., None], quick_retries: None, where: str, status: int, error: type[Exception]
) -> None:
    login("alice")
    old = fresh(8)
    old.push_to_bucket(ADDRESS)
    failing = hub.fail(status, path_contains=where, times=None)
    with pytest.raises(error) as caught:
        fresh(9).push_to_bucket(ADDRESS)
    text = str(caught.value)
    assert ADDRESS in text and "\n" not in text and HubServer.token("alice") not in text and "user-" not in text
    hub.clear_faults()
    assert failing.hits and same(PromptBank.from_pretrained(ADDRESS), old)


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [
        ("/reconstructions/", 404, HubUnavailableError),
        ("/reconstructions/", 500, HubUnavailableError),
        ("/xet-data/", 403, HubError),
        ("xet-read-token", 401, HubError),
        ("/resolve/", 500, HubUnavailableError),
        ("paths-info", 500, HubUnavailableError),
    ],
)
def test_a_load_that_fails(
    hub: HubServer, login: Callable[..., None], quick_retries: None, where: str, status: int, error: type[Exception]
) -> None:
    login("alice")
    bank = fresh(8)
    bank.push_to_bucket(ADDRESS)
    failing = hub.fail(status, path_contains=where, times=None)
    with pytest.raises(error) as caught:
        PromptBank.from_pretrained(ADDRESS)
    text = str(caught.value)
    assert ADDRESS in text and "\n" not in text and HubServer.token("alice") not in text and failing.hits
    hub.clear_faults()
    assert same(PromptBank.from_pretrained(ADDRESS), bank)


def test_some_files_of_a_batch_fail(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    old = fresh(8)
    old.push_to_bucket(ADDRESS)
    failed = json.dumps({"success": False, "failed": [{"path": "x", "error": "full"}]}).encode()
    hub.fail(200, body=failed, headers={"Content-Type": "application/json"}, path_contains="/batch")
    with pytest.raises(HubError, match=r"some files were not changed \(1 of them\); run it again"):
        fresh(9).push_to_bucket(ADDRESS)
    assert same(PromptBank.from_pretrained(ADDRESS), old)


def test_refusals_change_nothing(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_bucket(ADDRESS)
    before = dict(hub.bucket(BUCKET).entries)
    with pytest.raises(UnknownUserError, match="1 of 2 users") as caught:
        delete_users(ADDRESS, ["user-1", "secret"])
    assert "secret" not in str(caught.value)
    with pytest.raises(MismatchError):
        update_users(ADDRESS, make_bank(2, size=24))
    assert hub.bucket(BUCKET).entries == before


def test_damaged_and_hostile_contents(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    fresh(8).push_to_bucket(ADDRESS)
    hub.tamper(lambda content: content[:-40] + bytes(40), method="GET", path_contains="/xet-data/", times=None)
    with pytest.raises(PumaHubError) as caught:
        PromptBank.from_pretrained(ADDRESS)
    assert "\n" not in str(caught.value)
    hub.clear_faults()
    described = json.loads(hub.bucket(BUCKET).files()["bank.json"])
    for suffix in ("../../escape", "", 7, "0" * 17, "A" * 16):
        changed = json.dumps({**described, "suffix": suffix}).encode()
        HfApi().batch_bucket_files(BUCKET, add=[(changed, "bank.json")])
        with pytest.raises(CheckpointError, match="suffix must be 16 hexadecimal digits"):
            PromptBank.from_pretrained(ADDRESS)
