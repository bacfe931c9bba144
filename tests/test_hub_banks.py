"""Banks on the Hub: publishing and loading over HTTP with the real clients, whole and in part."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import HfApi, snapshot_download

import puma_hub
from puma_hub import ModelSpec, PromptBank, RatingTask
from puma_hub.bank import BankStatistics, update_users
from puma_hub.errors import (
    BankError,
    CheckpointError,
    ConfigurationError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    StorageError,
    UnknownUserError,
)
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.hub_server import HubServer, Repository

NAME = "alice/bank"
MODEL = ModelSpec("org/llama-1b", 32, revision="v1", fingerprint="a" * 16)
SHARD = "data/train-00000-of-00001.parquet"
FILES = {".gitattributes", "README.md", "bank.json", SHARD}


def full_bank(users: int = 8, head: RatingHead | None = None, **changes: object) -> PromptBank:
    """A bank with everything: several vectors a prompt, columns of its own, provenance, a head."""
    facts = {"template": "rating", "task": RatingTask(), "made_by": "trained", "details": {"seed": 1}, **changes}
    facts |= {"history": ({"made_by": "given", "model": {"model_id": "org/old", "hidden_size": 8}},)}
    rng = np.random.default_rng(0)
    ids = [f"user-{number}" for number in rng.permutation(users)]
    facts.setdefault("statistics", BankStatistics(np.ones((3, 32)), 1.0, 100))  # of the training they all come from
    bank = PromptBank.from_arrays(ids, rng.normal(size=(users, 3, 32)), MODEL, head=head, **facts)
    own = bank.dataset.add_column("age", list(range(users))).add_column("notes", [f"nöte {i}" for i in range(users)])
    return PromptBank(own, bank.provenance, head)


def same(found: PromptBank, expected: PromptBank) -> bool:
    """All that a bank holds, user by user."""
    by_user = {row["user_id"]: row for row in expected.dataset}
    heads = [bank.head and {k: v.tolist() for k, v in bank.head.state_dict().items()} for bank in (found, expected)]
    return (
        found.user_ids == sorted(expected.user_ids)
        and all(row == by_user[row["user_id"]] for row in found.dataset)
        and found.dataset.features == expected.dataset.features
        and found.provenance == expected.provenance
        and heads[0] == heads[1]
    )


def stored(hub: HubServer, name: str = NAME) -> Repository:
    return hub.repository(name, "dataset")


# Publishing


def test_push_is_one_commit_with_everything(hub: HubServer, login: Callable[..., None], head: RatingHead) -> None:
    login("alice")
    bank = full_bank(head=head)
    commit = bank.push_to_hub(NAME)
    repository = stored(hub)
    assert repository.private and commit.oid == repository.head() and commit.repo_url.repo_id == NAME
    assert set(repository.files()) == FILES | {"head.safetensors"}
    assert len(HfApi().list_repo_commits(NAME, repo_type="dataset")) == 2  # the Hub's own first one, and this
    home = hub.empty_cache()
    hub.clear_requests()
    for revision in (None, commit.oid, "main"):
        loaded = PromptBank.from_pretrained(NAME, revision=revision)
        assert same(loaded, bank)
    assert hub.opened() == {"bank.json", SHARD, "head.safetensors"}
    assert not list(home.rglob("*.arrow"))  # the download is the only copy
    for path, content in repository.files().items():
        assert b"user-3" not in content or path == SHARD  # ids are in the Parquet alone
    assert "user-" not in repository.history()[0].title


def test_push_again_replaces_everything(hub: HubServer, login: Callable[..., None], head: RatingHead) -> None:
    login("alice")
    first = full_bank(30, head).push_to_hub(NAME, max_shard_size="4KB")
    repository = stored(hub)
    assert sum(path.endswith(".parquet") for path in repository.files()) == 4
    assert same(PromptBank.from_pretrained(NAME), full_bank(30, head))
    repository.commit({"notes.md": b"kept", "old/part.parquet": b"another bank's"}, "more")
    full_bank(5).push_to_hub(NAME, commit_message="Second")
    assert set(repository.files()) == FILES | {"notes.md"} and repository.history()[0].title == "Second"
    assert same(PromptBank.from_pretrained(NAME), full_bank(5))
    assert same(PromptBank.from_pretrained(NAME, revision=first.oid), full_bank(30, head))
    full_bank(6).push_to_hub(NAME, revision="trial")
    assert len(PromptBank.from_pretrained(NAME, revision="trial")) == 6 and len(PromptBank.from_pretrained(NAME)) == 5
    with pytest.raises(HubNotFoundError, match="no such revision"):
        PromptBank.from_pretrained(NAME, revision="v9")
    for size in ("many", 0, "0MB"):
        with pytest.raises(ConfigurationError, match="max_shard_size"):
            full_bank().push_to_hub(NAME, max_shard_size=size)


def test_an_empty_bank(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().select([]).push_to_hub(NAME)
    assert same(PromptBank.from_pretrained(NAME), full_bank().select([]))
    assert len(PromptBank.from_pretrained(NAME, users=[])) == 0


def test_private_never_lands_in_public(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    HfApi().create_repo(NAME, repo_type="dataset", private=False)
    before = stored(hub).head()
    hub.clear_requests()
    for options in ({}, {"private": True}, {"private": None}, {"revision": "side"}):
        with pytest.raises(ConfigurationError, match=r"is public.*Nothing was uploaded.*private=False"):
            full_bank().push_to_hub(NAME, **options)  # type: ignore[arg-type]
    assert stored(hub).head() == before and not stored(hub).objects and set(stored(hub).branches) == {"main"}
    assert not any("/preupload/" in r.path or r.method == "PUT" for r in hub.requests) and not caplog.text
    full_bank().push_to_hub(NAME, private=False)
    assert "is public: anyone can read" in caplog.text and "user-3" not in caplog.text
    assert "This bank is public" in stored(hub).files()["README.md"].decode()
    with pytest.raises(ConfigurationError, match="is public"):
        update_users(NAME, full_bank(2))
    update_users(NAME, full_bank(9), private=False)
    HfApi().update_repo_settings(NAME, repo_type="dataset", private=True)
    caplog.clear()
    full_bank().push_to_hub(NAME, private=False)  # nothing is made public by the way
    assert stored(hub).private and "stays private" in caplog.text
    assert "This bank is public" not in stored(hub).files()["README.md"].decode()
    full_bank().push_to_hub("alice/open", private=False)
    assert not stored(hub, "alice/open").private


def test_a_folders_name_is_warned_of(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    bank = make_bank().with_provenance(model=ModelSpec("/models/llama", 32))
    bank.push_to_hub(NAME)
    assert "recorded as a folder" in caplog.text and "/models" not in caplog.text
    assert "/models" not in stored(hub).files()["README.md"].decode()
    assert PromptBank.from_pretrained(NAME).model.model_id == "/models/llama"


# Loading


def test_who_may_read(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    full_bank().push_to_hub("alice/gated", private=False)
    HfApi().update_repo_settings("alice/gated", repo_type="dataset", gated="auto")
    for user in ("bob", None):
        login(user)
        hub.empty_cache()
        for users in (None, ["user-1"]):
            with pytest.raises(HubNotFoundError, match="private"):
                PromptBank.from_pretrained(NAME, users=users)
            with pytest.raises(HubAccessError, match="gated"):
                PromptBank.from_pretrained("alice/gated", users=users)
        with pytest.raises(HubError):
            full_bank().push_to_hub(NAME)
    token = HubServer.token("alice")  # a token by hand
    assert same(PromptBank.from_pretrained(NAME, token=token), full_bank())
    assert PromptBank.from_pretrained(NAME, users=["user-1"], token=token).user_ids == ["user-1"]


def test_as_a_plain_data_set(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank(30).push_to_hub(NAME, max_shard_size="4KB")
    hub.empty_cache()
    rows = datasets.load_dataset(NAME, split="train")
    assert rows.features == full_bank().dataset.features and rows["user_id"][:] == sorted(full_bank(30).user_ids)
    assert same(PromptBank(rows, full_bank(30).provenance), full_bank(30))
    streamed = next(iter(datasets.load_dataset(NAME, split="train", streaming=True)))
    assert streamed["user_id"] == "user-0"


def test_from_folders(hub: HubServer, login: Callable[..., None], tmp_path: Path, head: RatingHead) -> None:
    login("alice")
    full_bank(head=head).push_to_hub(NAME)
    full_bank(head=head).save_pretrained(tmp_path / "saved")
    snapshot_download(NAME, repo_type="dataset", local_dir=tmp_path / "copy")
    hub.clear_requests()
    saved = PromptBank.from_pretrained(tmp_path / "saved")
    assert same(saved, full_bank(head=head))
    assert same(PromptBank.from_pretrained(tmp_path / "copy"), full_bank(head=head))
    for folder in ("saved", "copy"):
        some = PromptBank.from_pretrained(str(tmp_path / folder), users=["user-5", "user-2"])
        assert some.user_ids == ["user-5", "user-2"] and np.array_equal(some["user-2"], saved["user-2"])
    assert not hub.requests
    with pytest.raises(StorageError, match="not a prompt bank"):
        PromptBank.from_pretrained(tmp_path)
    with pytest.raises(StorageError, match="it is not a folder"):
        PromptBank.from_pretrained(tmp_path / "none")
    (tmp_path / "copy" / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks head\.safetensors"):
        PromptBank.from_pretrained(tmp_path / "copy")


def test_the_cache_can_be_elsewhere(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    home = hub.empty_cache()
    loaded = PromptBank.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert same(loaded, full_bank()) and not list(home.rglob("*.parquet")) and not list(home.rglob("*.arrow"))
    assert list((tmp_path / "cache").rglob("*.parquet"))


# A part of the users


@pytest.fixture
def large(hub: HubServer, login: Callable[..., None]) -> PromptBank:
    """6 MB in four shards, published."""
    login("alice")
    bank = make_bank(3000, size=512)
    bank.push_to_hub(NAME, max_shard_size=1_900_000)
    hub.empty_cache()
    hub.clear_requests()
    return bank


def test_some_users_are_read_without_the_rest(hub: HubServer, large: PromptBank) -> None:
    files = stored(hub).files()
    shards = {path: content for path, content in files.items() if path.endswith(".parquet")}
    assert len(shards) == 4
    one = PromptBank.from_pretrained(NAME, users=["user-1500"])
    assert np.array_equal(one["user-1500"], large["user-1500"]) and one.provenance == large.provenance
    footers = 65_536 * len(shards)  # Arrow guesses that much
    assert hub.downloaded() < footers + 600_000 < sum(map(len, shards.values())) / 6
    ranges = {request.filename: request.range for request in hub.requests if request.filename in shards}
    assert set(ranges) == set(shards) and all(ranges.values())
    hub.clear_requests()
    users = ["user-999", "user-0", "user-1501", "user-2"]
    some = PromptBank.from_pretrained(NAME, users=users)
    assert some.user_ids == users and all(np.array_equal(some[user], large[user]) for user in users)
    assert np.array_equal(some.prompts, large.prompts[large.rows(users)])
    assert hub.downloaded() < sum(map(len, shards.values())) / 2


def test_unknown_and_repeated_users(hub: HubServer, large: PromptBank) -> None:
    with pytest.raises(
        UnknownUserError, match=r"2 of 3 users are not in this bank of 3000 \(the first at position 1"
    ) as e:
        PromptBank.from_pretrained(NAME, users=["user-1", "secret", "aaa"])
    assert "secret" not in str(e.value)
    with pytest.raises(BankError, match="must be strings; 1 of 2"):
        PromptBank.from_pretrained(NAME, users=["user-1", 7])  # type: ignore[list-item]
    assert PromptBank.from_pretrained(NAME, users="user-1").user_ids == ["user-1"]
    with pytest.raises(BankError, match="more than once"):
        PromptBank.from_pretrained(NAME, users=["user-1", "user-1"])


def test_ids_of_every_kind(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    ids = ["é", "z", "Z", "\U0001f600", "\uffee", "a" * 9000, "a\nb", "0", " ", "e\u0301"]
    prompts = np.random.default_rng(0).normal(size=(len(ids), 1, 32))
    bank = PromptBank.from_arrays(ids, prompts, MODEL)
    bank.push_to_hub(NAME, max_shard_size=1)  # one user a file
    for user in ids:
        assert np.array_equal(PromptBank.from_pretrained(NAME, users=[user])[user], bank[user])
    assert same(PromptBank.from_pretrained(NAME), bank)


# What must not be loaded


def test_neither_pickle_nor_code_is_opened(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    # Planted on the test's own Hub: pickles and code that must stay unread.
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode()
    evil = {"bank.py": code, "alice.py": code, "data/x.py": code, "data/x.pkl": pickle.dumps(1), "bank.pt": b"PK"}
    stored(hub).commit({**evil, "head.bin": pickle.dumps(2), "data/train-0.arrow": b"ARROW1"}, "evil")
    hub.empty_cache()
    hub.clear_requests()
    assert same(PromptBank.from_pretrained(NAME), full_bank())
    assert PromptBank.from_pretrained(NAME, users=["user-1"]).user_ids == ["user-1"]
    asked = {request.filename for request in hub.requests if request.filename}
    assert asked == {"bank.json", SHARD} and not (tmp_path / "ran").exists()


def test_formats_and_descriptions(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    repository = stored(hub)
    facts = json.loads(repository.files()["bank.json"])
    assert facts["puma_hub_version"] == puma_hub.__version__ and facts["format_version"] == 1

    def load(changes: dict[str, object]) -> PromptBank:
        repository.commit({"bank.json": json.dumps({**facts, **changes}).encode()}, "changed")
        assert len(PromptBank.from_pretrained(NAME, users=["user-1"])) == 1
        return PromptBank.from_pretrained(NAME)

    assert same(load({"from_the_future": {"a": [1]}}), full_bank())
    newer = {"format_version": 2, "puma_hub_version": "3.1.0"}
    with pytest.raises(BankError, match=r"format 2.*'puma_hub>=3\.1\.0'"):
        load(newer)
    with pytest.raises(BankError, match="-U 'puma_hub'"):
        load({**newer, "puma_hub_version": "$(x)'; y"})
    for broken in ({"users": None}, {"users": -1}, {"rows_per_shard": 0}, {"model": 3}, {"card": "x"}, {"task": 7}):
        with pytest.raises(puma_hub.PumaHubError, match=r"bank\.json|ModelSpec|model|task"):
            load(broken)
    with pytest.raises(CheckpointError, match="should hold 9 users, but its files hold 8"):
        load({"users": 9})
    for changes, match in (
        ({"users": 7}, "should hold 7 users, but its files hold 8"),
        ({"rows_per_shard": 4}, "lacks"),
    ):
        repository.commit({"bank.json": json.dumps({**facts, **changes}).encode()}, "changed")
        for users in (None, ["user-1"]):
            with pytest.raises((CheckpointError, HubNotFoundError), match=match):
                PromptBank.from_pretrained(NAME, users=users)
    hub.create_repository("alice/table", "dataset", files={"rows.csv": b"a,b\n1,2\n"})
    with pytest.raises(HubNotFoundError, match=r"lacks the file bank\.json"):
        PromptBank.from_pretrained("alice/table")
    for name in ("a--b", "a/b/c", "nothing here"):
        with pytest.raises(StorageError, match="it is not a folder"):
            PromptBank.from_pretrained(name)


@pytest.mark.parametrize("users", [None, ["user-1"]])
@pytest.mark.parametrize("harm", ["cut", "garbage", "middle", "columns"])
def test_damaged_shards(
    hub: HubServer, login: Callable[..., None], harm: str, users: list[str] | None, tmp_path: Path
) -> None:
    login("alice")
    full_bank().push_to_hub(NAME)
    whole = stored(hub).files()[SHARD]
    datasets.Dataset.from_dict({"user_id": ["user-1"]}).to_parquet(tmp_path / "other.parquet")
    damaged = {
        "cut": whole[:-50],
        "garbage": b"PAR1" + bytes(500) + b"PAR1",
        "middle": whole[:4] + b"\xff" * 40 + whole[44:],
        "columns": (tmp_path / "other.parquet").read_bytes(),
    }
    stored(hub).commit({SHARD: damaged[harm]}, "damage")
    with pytest.raises((CheckpointError, BankError)) as caught:
        PromptBank.from_pretrained(NAME, users=users)
    assert "\n" not in str(caught.value) and NAME in str(caught.value)
    stored(hub).commit({SHARD: whole}, "repair")
    assert len(PromptBank.from_pretrained(NAME, users=users)) == (8 if users is None else 1)
