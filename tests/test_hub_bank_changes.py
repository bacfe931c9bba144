"""Users of published banks: added, replaced, deleted and gone, while others do the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank
from puma_hub.bank import delete_users, update_users
from puma_hub.errors import BankError, HubError, HubNotFoundError, MismatchError, UnknownUserError
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_hub_banks import FILES, MODEL, NAME, full_bank, same, stored


def bank_of(*names: str, value: float = 1.0, users: int = 4) -> PromptBank:
    """New users of the training that ``make_bank(users)`` comes from."""
    prompts = np.full((len(names), 1, 32), value, np.float32)
    return PromptBank.from_arrays(list(names), prompts, ModelSpec("source", 32), statistics=make_bank(users).statistics)


def test_update_adds_and_replaces(hub: HubServer, login: Callable[..., None], head: RatingHead) -> None:
    login("alice")
    old = full_bank(8, head)
    first = old.push_to_hub(NAME, license="cc-by-4.0", max_shard_size="2KB")
    stored(hub).commit({"notes.md": b"kept"}, "notes")
    shards = sum(path.endswith(".parquet") for path in stored(hub).files())
    new = full_bank(12, head).remove([f"user-{number}" for number in range(4)])
    commit = update_users(NAME, new)
    loaded = PromptBank.from_pretrained(NAME)
    assert commit.oid == stored(hub).head() and len(loaded) == 12 and same(loaded, old.update(new))
    assert all(np.array_equal(loaded[user], new[user]) for user in new.user_ids)
    assert np.array_equal(loaded["user-1"], old["user-1"]) and loaded.head is not None
    files = stored(hub).files()
    assert "notes.md" in files and sum(path.endswith(".parquet") for path in files) > shards
    card = files["README.md"].decode()
    assert "12 users" in card and "license: cc-by-4.0" in card and "user-" not in card
    assert stored(hub).history()[0].title == "Update 8 users"
    assert same(PromptBank.from_pretrained(NAME, revision=first.oid), old)


def test_a_deleted_user_is_in_no_file_of_the_newest_revision(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    gone, bank = "somebody-in-particular", make_bank(500)
    bank = bank.update(bank_of(gone, value=0.123, users=500))
    before = bank.push_to_hub(NAME, max_shard_size="20KB")
    personal = [gone.encode(), bank[gone].tobytes()]
    held = [path for path, content in stored(hub).files().items() if any(part in content for part in personal)]
    assert len(held) == 1 and held[0].endswith(".parquet")
    home = hub.empty_cache()
    commit = delete_users(NAME, [gone, "user-7"])
    for path, content in stored(hub).files().items():
        assert not any(part in content for part in personal) and gone not in path
    made = stored(hub).history()[0]
    assert made.oid == commit.oid and made.title == "Delete 2 users" and gone not in made.message
    assert not [path for path in home.rglob("*") if path.is_file() and gone.encode() in path.read_bytes()]
    loaded = PromptBank.from_pretrained(NAME)
    assert same(loaded, bank.remove([gone, "user-7"]))
    with pytest.raises(UnknownUserError):
        PromptBank.from_pretrained(NAME, users=[gone])
    assert gone in PromptBank.from_pretrained(NAME, revision=before.oid)  # as the documentation says
    delete_users(NAME, loaded.user_ids)
    assert len(PromptBank.from_pretrained(NAME)) == 0
    update_users(NAME, bank_of("first", users=500))
    assert PromptBank.from_pretrained(NAME).user_ids == ["first"]


def test_only_what_changed_is_uploaded(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    make_bank(500).push_to_hub(NAME, max_shard_size="10KB")
    before = {path: content for path, content in stored(hub).files().items() if path.endswith(".parquet")}
    hub.clear_requests()
    update_users(NAME, bank_of("user-99", users=500))  # the last one
    assert len(before) > 5 and sum(request.method == "PUT" for request in hub.requests) == 1
    assert len(before.items() - stored(hub).files().items()) == 1


def test_refusals_change_nothing(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    before = stored(hub).head()
    with pytest.raises(UnknownUserError, match="1 of 2 users") as caught:
        delete_users(NAME, ["user-1", "secret"])
    assert "secret" not in str(caught.value)
    with pytest.raises(UnknownUserError, match="1 of 1 users"):
        delete_users(NAME, "no-list")
    with pytest.raises(MismatchError):
        update_users(NAME, make_bank(2, size=24))
    with pytest.raises(BankError, match=r"have shapes \(3, 32\) and \(1, 32\)"):
        update_users(NAME, make_bank(2).with_provenance(model=MODEL))
    with pytest.raises(MismatchError, match=r"templates differ.*bank=existing"):
        update_users(NAME, full_bank(2, template="click"))
    with pytest.raises(BankError, match="columns"):
        update_users(NAME, PromptBank(full_bank(2).dataset.remove_columns("age"), full_bank().provenance))
    with pytest.raises(HubNotFoundError):
        delete_users("alice/none", ["user-1"])
    hub.create_repository("alice/table", "dataset", files={"rows.csv": b"a\n1\n"}, private=True)
    with pytest.raises(HubNotFoundError, match=r"bank\.json"):
        delete_users("alice/table", ["user-1"])
    assert stored(hub).head() == before
    assert delete_users(NAME, []).oid == before  # nothing to do, no commit


def test_another_branch(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    full_bank().push_to_hub(NAME, revision="trial")
    delete_users(NAME, ["user-1"], revision="trial", commit_message="Trial")
    assert "user-1" not in PromptBank.from_pretrained(NAME, revision="trial")
    assert "user-1" in PromptBank.from_pretrained(NAME)
    assert stored(hub).history("trial")[0].title == "Trial"


def test_an_edited_card_stays(hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    delete_users(NAME, ["user-1"])
    assert "edited" not in caplog.text and "7 users" in stored(hub).files()["README.md"].decode()
    stored(hub).commit({"README.md": b"# Mine\n"}, "card")
    for user in ("user-2", "user-3"):
        delete_users(NAME, [user])
        assert stored(hub).files()["README.md"] == b"# Mine\n" and "edited by hand" in caplog.text
    stored(hub).commit({"README.md": None}, "no card")
    delete_users(NAME, ["user-4"])
    assert "4 users" in stored(hub).files()["README.md"].decode()


# At the same time


def test_no_update_is_lost(hub: HubServer, login: Callable[..., None]) -> None:
    """Somebody's commit comes between what is read and what is written."""
    login("alice")
    make_bank(4).push_to_hub(NAME)
    make_bank(4).update(bank_of("theirs")).push_to_hub("alice/theirs")
    theirs = {path: stored(hub, "alice/theirs").files()[path] for path in FILES}

    def overtake(content: bytes) -> bytes:
        stored(hub).commit(theirs, "theirs")
        return content

    overtaken = hub.tamper(overtake, method="GET", path_contains=".parquet")
    update_users(NAME, bank_of("ours"))
    assert overtaken.hits == 1
    assert PromptBank.from_pretrained(NAME).user_ids == ["ours", "theirs", *make_bank(4).user_ids]
    assert [commit.title for commit in stored(hub).history()][:2] == ["Update 1 users", "theirs"]


def test_many_at_once(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    make_bank(4).push_to_hub(NAME)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            if number:
                update_users(NAME, bank_of(f"new-{number}", value=number))
            else:
                delete_users(NAME, ["user-0"])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    loaded = PromptBank.from_pretrained(NAME)
    assert loaded.user_ids == ["new-1", "new-2", "user-1", "user-2", "user-3"] and loaded["new-2"].max() == 2


def test_pushes_at_once_leave_one_bank(hub: HubServer, login: Callable[..., None]) -> None:
    """Four shards of another push come after ours has listed what it is to delete."""
    login("alice")
    full_bank(30).push_to_hub(NAME, max_shard_size="4KB")
    theirs = stored(hub).files()
    full_bank(3).push_to_hub(NAME)
    slow = hub.slow(0.5, path_contains="/preupload/")
    ours = threading.Thread(target=lambda: full_bank(5).push_to_hub(NAME))
    ours.start()
    while not slow.hits:
        time.sleep(0.01)
    stored(hub).commit(theirs, "theirs")
    ours.join()
    assert set(stored(hub).files()) == FILES and stored(hub).history()[1].title == "theirs"
    assert same(PromptBank.from_pretrained(NAME), full_bank(5))


@pytest.mark.parametrize("status", [409, 412])
def test_who_never_comes_first_is_told(
    hub: HubServer, login: Callable[..., None], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puma_hub.hub.newest._PAUSE", 0.0)
    login("alice")
    full_bank().push_to_hub(NAME)
    before = stored(hub).head()
    conflict = hub.fail(status, method="POST", path_contains="/commit/", times=None)
    with pytest.raises(HubError, match=r"somebody else at the same time.*run again"):
        delete_users(NAME, ["user-1"])
    assert conflict.hits == 4 and stored(hub).head() == before


def test_nothing_stays_in_the_temporary_folder(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    login("alice")
    full_bank().push_to_hub(NAME)
    delete_users(NAME, ["user-1"])
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.arrow"))
