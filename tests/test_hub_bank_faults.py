"""Banks on a Hub that fails: a push is whole or not there, and no half of a bank is ever loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from puma_hub import PromptBank
from puma_hub.bank import delete_users, update_users
from puma_hub.errors import HubAccessError, HubError, HubUnavailableError, PumaHubError
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_hub_banks import NAME, SHARD, full_bank, same, stored

STATUSES = [
    ({"status": 401}, HubAccessError),
    ({"status": 403}, HubAccessError),
    ({"status": 409}, HubError),
    ({"status": 429, "headers": {"Retry-After": "7"}}, HubUnavailableError),
    ({"status": 500}, HubUnavailableError),
]
STAGES = ["/preupload/", "/objects/batch", "/commit/", "/lfs-objects/"]
CHANGES: dict[str, Callable[[], object]] = {
    "push": lambda: full_bank(9).push_to_hub(NAME),
    "update": lambda: update_users(NAME, full_bank(9)),
    "delete": lambda: delete_users(NAME, ["user-1"]),
}


@pytest.mark.parametrize(
    ("change", "where", "fault", "error"),
    [("push", where, *fault) for where in STAGES for fault in STATUSES]
    + [(change, where, *STATUSES[number]) for change in ("update", "delete") for number, where in enumerate(STAGES)],
)
def test_a_failed_change_leaves_the_newest_revision_whole(
    hub: HubServer,
    login: Callable[..., None],
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    where: str,
    fault: dict[str, Any],
    error: type[Exception],
) -> None:
    monkeypatch.setattr("puma_hub.hub.newest._PAUSE", 0.0)
    login("alice")
    full_bank().push_to_hub(NAME)
    before = stored(hub).head()
    hub.fail(**fault, method=None, path_contains=where, times=None)
    with pytest.raises(error) as caught:
        CHANGES[change]()
    text = str(caught.value)
    assert NAME in text and "\n" not in text and HubServer.token("alice") not in text and "user-1" not in text
    assert stored(hub).head() == before
    hub.clear_faults()
    hub.empty_cache()
    assert same(PromptBank.from_pretrained(NAME), full_bank())
    CHANGES[change]()
    assert len(PromptBank.from_pretrained(NAME)) == (7 if change == "delete" else 9)


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("where", STAGES)
def test_a_cut_change(hub: HubServer, login: Callable[..., None], quick_retries: None, where: str, change: str) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    before = stored(hub).head()
    hub.drop(path_contains=where, times=None)
    with pytest.raises(HubUnavailableError, match="connection broke"):
        CHANGES[change]()
    hub.clear_faults()
    assert stored(hub).head() == before and same(PromptBank.from_pretrained(NAME), full_bank())


def test_a_repository_that_cannot_be_made_or_seen(
    hub: HubServer, login: Callable[..., None], quick_retries: None
) -> None:
    login("alice")
    for status, error in ((403, HubAccessError), (429, HubUnavailableError), (500, HubUnavailableError)):
        hub.fail(status, path_contains="/repos/create", times=None)
        with pytest.raises(error, match=NAME):
            full_bank().push_to_hub(NAME)
        hub.clear_faults()
        # Whether it is private is not known: nothing is uploaded.
        hub.fail(status, method="GET", path_contains="/api/datasets/", times=None)
        with pytest.raises(error, match=NAME):
            full_bank().push_to_hub(NAME)
        hub.clear_faults()
        assert set(stored(hub).files()) == {".gitattributes"} and not stored(hub).objects


def test_rights(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_hub(NAME, private=False)
    before = stored(hub).head()
    for user, right in ((None, "write"), ("bob", "read"), ("bob", "write")):
        login(user, right)
        for change in (
            lambda: full_bank().push_to_hub(NAME, private=False),
            lambda: update_users(NAME, full_bank(9), private=False),
            lambda: delete_users(NAME, ["user-1"]),
        ):
            with pytest.raises(HubError, match=r"log in|right"):
                change()
    assert stored(hub).head() == before


# Loading


@pytest.mark.parametrize("users", [None, ["user-1"]])
@pytest.mark.parametrize("path", ["bank.json", SHARD])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, HubError),
        (403, HubAccessError),
        (404, PumaHubError),
        (429, HubUnavailableError),
        (500, HubUnavailableError),
    ],
)
def test_load_faults(
    hub: HubServer,
    login: Callable[..., None],
    quick_retries: None,
    path: str,
    status: int,
    error: type[Exception],
    users: list[str] | None,
) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    hub.empty_cache()
    hub.fail(status, path_contains=path, times=None, headers={"Retry-After": "1"} if status == 429 else None)
    with pytest.raises(error) as caught:
        PromptBank.from_pretrained(NAME, users=users)
    assert "\n" not in str(caught.value) and NAME in str(caught.value) and "user-1" not in str(caught.value)
    hub.clear_faults()
    loaded = PromptBank.from_pretrained(NAME, users=users)  # no half of it was cached
    assert same(loaded, full_bank() if users is None else full_bank().select(users))


def test_a_cut_busy_or_slow_download_is_retried(
    hub: HubServer, login: Callable[..., None], quick_retries: None
) -> None:
    login("alice")
    bank = make_bank(60, size=256)
    bank.push_to_hub(NAME)
    for users in (None, ["user-7", "user-1"]):
        hub.empty_cache()
        faults = [
            hub.cut(20_000, method="GET", path_contains=SHARD, times=2),
            hub.fail(429, method="GET", path_contains="bank.json", headers={"Retry-After": "1"}, times=1),
            hub.slow(0.01, chunk=20_000, method="GET", path_contains=SHARD, times=None),
        ]
        found = PromptBank.from_pretrained(NAME, users=users)
        assert (found.prompts == bank.prompts[bank.rows(found.user_ids)]).all()
        assert [fault.hits > 0 for fault in faults] == [True] * 3
        hub.clear_faults()


def test_what_was_loaded_once_loads_without_the_hub(
    hub: HubServer, login: Callable[..., None], quick_retries: None
) -> None:
    login("alice")
    full_bank(30).push_to_hub(NAME, max_shard_size="4KB")
    hub.empty_cache()
    hub.drop(path_contains="train-00002", times=None)
    with pytest.raises(HubUnavailableError):
        PromptBank.from_pretrained(NAME)
    hub.drop(times=None)
    with pytest.raises(HubUnavailableError, match="cannot be reached"):  # a part of the shards is no bank
        PromptBank.from_pretrained(NAME)
    hub.clear_faults()
    PromptBank.from_pretrained(NAME)
    hub.fail(503, times=None)
    assert same(PromptBank.from_pretrained(NAME), full_bank(30))


def test_a_newer_revision_never_mixes_with_an_older_one(
    hub: HubServer, login: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    login("alice")
    full_bank(30).push_to_hub(NAME, max_shard_size="4KB")
    old = stored(hub).files()
    make_bank(30, length=3).with_provenance(template="rating").push_to_hub("alice/other", max_shard_size="4KB")
    other = stored(hub, "alice/other").files()

    def overtake(content: bytes) -> bytes:
        """Somebody else's commit between the first file and the others."""
        stored(hub).commit({**dict.fromkeys(old.keys() - other.keys()), **other}, "another bank")
        return content

    for users in (None, [f"user-{number}" for number in range(30)]):
        stored(hub).commit({**dict.fromkeys(stored(hub).files().keys() - old.keys()), **old}, "back")
        hub.empty_cache()
        overtaken = hub.tamper(overtake, method="GET", path_contains="bank.json")
        loaded = PromptBank.from_pretrained(NAME, users=users)
        assert overtaken.hits == 1 and loaded.provenance == full_bank().provenance
        assert all((loaded[user] == prompt).all() for user, prompt in full_bank(30))


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_commit_that_is_made_but_not_confirmed(hub: HubServer, login: Callable[..., None], change: str) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    hub.cut(0, path_contains="/commit/")
    with pytest.raises(HubUnavailableError, match="connection broke"):
        CHANGES[change]()
    assert len(PromptBank.from_pretrained(NAME)) == (7 if change == "delete" else 9)  # whole, and the new one
