"""Banks in buckets, with the real clients: written and loaded while others do the same, deleted in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from puma_hub import PromptBank
from puma_hub.bank import delete_users, update_users
from puma_hub.bank.download import describe_bank
from puma_hub.cli.main import main
from puma_hub.errors import (
    ConfigurationError,
    HubAccessError,
    HubNotFoundError,
    UnknownUserError,
)
from puma_hub.migration import migrate_between, migrate_to
from puma_hub.serving.prompts import open_prompts
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank, make_interactions
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter
from tests.test_hub_bank_changes import bank_of
from tests.test_hub_banks import full_bank, same
from tests.test_hub_cli import error_of, report_of
from tests.test_hub_route import SPECS, make_source
from tests.trainings import make_trained

BUCKET = "alice/prompts"
ADDRESS = f"hf://buckets/{BUCKET}"


def names(hub: HubServer, bucket: str = BUCKET) -> list[str]:
    """The files of a bank with what is made up at random left out."""
    found = hub.bucket(bucket).entries
    suffix = json.loads(hub.bucket(bucket).files()["bank.json"])["suffix"]
    assert len(suffix) == 16 and all(suffix in name for name in found if name.endswith((".parquet", ".safetensors")))
    return sorted(name.replace(f"-{suffix}", "") for name in found)


def local_files(*folders: Path) -> list[bytes]:
    return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]


# The server behind these tests


def test_the_server_gives_back_what_the_client_sends(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    """Contents that are packed in each of the three ways, of several chunks and xorbs."""
    rng = np.random.default_rng(0)
    contents = {
        "a/random": rng.bytes(400_000),
        "a/floats": rng.normal(size=100_001).astype(np.float32).tobytes() + b"odd",
        "text.json": b'{"key": "value"}' * 40_000,
        "text-2.json": b"x",
    }
    assert api.create_bucket(BUCKET, private=True).bucket_id == BUCKET
    api.batch_bucket_files(BUCKET, add=[(content, path) for path, content in contents.items()])
    assert hub.bucket(BUCKET).files() == contents and api.bucket_info(BUCKET).total_files == 4
    api.download_bucket_files(BUCKET, [(path, tmp_path / path) for path in contents])
    assert all((tmp_path / path).read_bytes() == content for path, content in contents.items())
    hub.page_size = 1
    assert [file.path for file in api.list_bucket_tree(BUCKET, prefix="text")] == ["text-2.json", "text.json"]
    assert {entry.path for entry in api.list_bucket_tree(BUCKET)} == {"a", "text-2.json", "text.json"}
    api.batch_bucket_files(BUCKET, delete=["a/random"])
    assert set(hub.bucket(BUCKET).files()) == set(contents) - {"a/random"}


# Writing and loading


def test_push_and_load(hub: HubServer, login: Callable[..., None], head: RatingHead, tmp_path: Path) -> None:
    login("alice")
    bank = full_bank(20, head)
    url = bank.push_to_bucket(ADDRESS, license="cc-by-4.0", max_shard_size="4KB")
    assert url.bucket_id == BUCKET and hub.bucket(BUCKET).private
    shards = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert names(hub) == ["bank.json", *shards, "head.safetensors"]
    assert json.loads(hub.bucket(BUCKET).files()["bank.json"])["license"] == "cc-by-4.0"
    loaded = PromptBank.from_pretrained(ADDRESS)
    assert same(loaded, bank)
    hub.clear_requests()
    assert same(PromptBank.from_pretrained(f"{ADDRESS}/"), bank)
    fetched = [request for request in hub.requests if request.path.startswith("/xet-data/")]
    assert len(fetched) == 1  # the description alone
    assert same(PromptBank.from_pretrained(ADDRESS, cache_dir=tmp_path / "cache", force_download=True), bank)
    small = full_bank(3)
    small.push_to_bucket(ADDRESS)
    assert names(hub) == ["bank.json", "data/train-00000-of-00001.parquet"]
    assert same(PromptBank.from_pretrained(ADDRESS), small)
    assert same(loaded, bank)  # its files stay open


def test_some_users_are_read_without_the_rest(
    hub: HubServer, login: Callable[..., None], head: RatingHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login("alice")
    bank = full_bank(3000, head)
    bank.push_to_bucket(f"{ADDRESS}/movies")
    home = hub.empty_cache()
    hub.clear_requests()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    some = PromptBank.from_pretrained(f"{ADDRESS}/movies", users=["user-7", "user-3"])
    assert some.user_ids == ["user-7", "user-3"] and np.array_equal(some["user-3"], bank["user-3"])
    assert some.head is not None and not local_files(tmp_path)
    assert not any(b"user-7" in content for content in local_files(home))
    size = sum(map(len, hub.bucket(BUCKET).files().values()))
    assert 0 < hub.downloaded(BUCKET) < size * 0.9
    with pytest.raises(UnknownUserError):
        PromptBank.from_pretrained(f"{ADDRESS}/movies", users=["nobody"])


def test_folders_of_one_bucket_and_other_files_in_it(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    HfApi().create_bucket(BUCKET, private=True)
    others = {"notes.md": b"mine", "data/train-00000.parquet": b"mine", "bank-2/data/train-1-of-2.parquet": b"mine"}
    others["data/train-00000-of-00001.parquet"] = b"of no bank, since no bank.json is beside it"
    HfApi().batch_bucket_files(BUCKET, add=[(content, path) for path, content in others.items()])
    banks = {f"{ADDRESS}{folder}": make_bank(n + 2) for n, folder in enumerate(["", "/bank", "/bank-2", "/bank/in"])}
    for _ in range(2):
        for address, bank in banks.items():
            bank.push_to_bucket(address)
            assert {path: hub.bucket(BUCKET).files().get(path) for path in others} == others
            others.pop("data/train-00000-of-00001.parquet", None)
    delete_users(f"{ADDRESS}/bank", ["user-0"])
    assert [len(PromptBank.from_pretrained(address)) for address in banks] == [2, 2, 4, 5]


def test_a_folder_that_the_hubs_own_client_copied(
    hub: HubServer, login: Callable[..., None], head: RatingHead, tmp_path: Path
) -> None:
    """In both directions; the copy of a bucket is a bank's folder that may be replaced."""
    login("alice")
    full_bank(5, head).save_pretrained(tmp_path / "bank")
    HfApi().create_bucket(BUCKET, private=True)
    HfApi().sync_bucket(str(tmp_path / "bank"), ADDRESS, quiet=True)
    assert same(PromptBank.from_pretrained(ADDRESS), full_bank(5, head))
    assert PromptBank.from_pretrained(ADDRESS, users=["user-1"]).user_ids == ["user-1"]
    delete_users(ADDRESS, ["user-1"])
    assert "data/train-00000-of-00001.parquet" not in hub.bucket(BUCKET).entries
    HfApi().sync_bucket(ADDRESS, str(tmp_path / "copy"), quiet=True)
    assert same(PromptBank.from_pretrained(tmp_path / "copy"), full_bank(5, head).remove(["user-1"]))
    make_bank(2).save_pretrained(tmp_path / "copy")
    assert len(PromptBank.from_pretrained(tmp_path / "copy")) == 2


# Who may read it


def test_private_unless_asked_otherwise(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    HfApi().create_bucket("alice/open", private=False)
    for refused in (
        lambda: full_bank().push_to_bucket("hf://buckets/alice/open"),
        lambda: full_bank().push_to_bucket("hf://buckets/alice/open", private=None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match="alice/open is public: anyone could read"):
            refused()
    assert not hub.bucket("alice/open").entries
    full_bank().push_to_bucket("hf://buckets/alice/open", private=False)
    assert "cannot be undone" in caplog.text
    with pytest.raises(ConfigurationError, match="is public"):
        update_users("hf://buckets/alice/open", full_bank(9))
    update_users("hf://buckets/alice/open", full_bank(9), private=False)
    delete_users("hf://buckets/alice/open", ["user-1"])  # deleting needs no flag
    login(None)
    assert len(PromptBank.from_pretrained("hf://buckets/alice/open")) == 8
    login("alice")
    full_bank().push_to_bucket(ADDRESS)
    for user in ("bob", None):
        login(user)
        with pytest.raises(HubNotFoundError, match="no such bucket, or it is private"):
            PromptBank.from_pretrained(ADDRESS)
    login("alice", "read")
    assert len(PromptBank.from_pretrained(ADDRESS)) == 8
    with pytest.raises(HubAccessError, match="lacks the right"):
        delete_users(ADDRESS, ["user-1"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://buckets/alice", "not the address of a bucket"),
        ("hf://buckets/alice/prompts/../other", "not the address of a bucket"),
        ("hf://buckets/alice/prompts//in", "not the address of a bucket"),
        ("hf://buckets/alice/pro mpts", "not the address of a bucket"),
        ("hf://buckets/alice/prompts@main", "not the address of a bucket"),
        ("alice/prompts", "not the address of a bucket"),
    ],
)
def test_what_is_no_bucket(hub: HubServer, login: Callable[..., None], address: str, said: str) -> None:
    login("alice")
    hub.clear_requests()
    with pytest.raises(ConfigurationError, match=said):
        full_bank().push_to_bucket(address)
    assert not hub.requests


def test_a_bucket_has_no_revisions_and_may_hold_no_bank(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    with pytest.raises(HubNotFoundError, match="no such bucket"):
        PromptBank.from_pretrained(ADDRESS)
    full_bank().push_to_bucket(ADDRESS)
    for refused in (
        lambda: PromptBank.from_pretrained(ADDRESS, revision="main"),
        lambda: delete_users(ADDRESS, ["user-1"], revision="main"),
        lambda: update_users(ADDRESS, full_bank(), revision="main"),
        lambda: delete_users(ADDRESS, ["user-1"], commit_message="gone"),
        lambda: describe_bank(ADDRESS),
        lambda: full_bank().push_to_hub(ADDRESS),
    ):
        with pytest.raises(ConfigurationError, match=r"in a bucket, which keeps no (revisions|messages|commits)"):
            refused()
    with pytest.raises(HubNotFoundError, match=r"no bank\.json in it"):
        PromptBank.from_pretrained(f"{ADDRESS}/nothing")
    assert len(PromptBank.from_pretrained(ADDRESS)) == 8


# Deletion in place


def test_a_deleted_user_is_gone(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login("alice")
    gone, bank = "somebody-in-particular", make_bank(500)
    bank = bank.update(bank_of(gone, value=0.123, users=500))
    bank.push_to_bucket(ADDRESS, max_shard_size="20KB")
    home = hub.empty_cache()
    assert gone in PromptBank.from_pretrained(ADDRESS)
    personal = [gone.encode(), bank[gone].tobytes()]
    assert any(personal[0] in content for content in hub.bucket(BUCKET).files().values())
    assert any(personal[0] in content for content in local_files(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert delete_users(ADDRESS, [gone, "user-7"]).url == f"{hub.endpoint}/buckets/{BUCKET}"
    for content in [*hub.bucket(BUCKET).files().values(), *local_files(home, tmp_path)]:
        assert not any(part in content for part in personal)
    loaded = PromptBank.from_pretrained(ADDRESS)
    assert same(loaded, bank.remove([gone, "user-7"])) and len(names(hub)) > 4
    with pytest.raises(UnknownUserError, match="1 of 1 users"):
        delete_users(ADDRESS, [gone])


def test_another_machines_cache_loses_the_user_when_it_loads_again(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    bank = make_bank(4).update(bank_of("somebody-in-particular"))
    bank.push_to_bucket(ADDRESS)
    theirs = hub.empty_cache()
    PromptBank.from_pretrained(ADDRESS)
    hub.empty_cache()  # as another machine
    delete_users(ADDRESS, ["somebody-in-particular"])
    assert any(b"somebody" in content for content in local_files(theirs))
    assert len(PromptBank.from_pretrained(ADDRESS)) == 4


# On the command line


def test_commands_take_a_bucket(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    folder = tmp_path / "bank"
    make_source().save_pretrained(folder)
    report = report_of(tmp_path, "push", folder, "lab/prompts", "--bucket", "--license", "cc-by-4.0")
    address = "hf://buckets/lab/prompts"
    assert report == {"kind": "bank", "bucket_id": "lab/prompts", "url": f"{hub.endpoint}/buckets/lab/prompts"}
    assert main(["push", str(folder), f"{address}/in"]) == 0 and hub.bucket("lab/prompts").private
    make_adapter(sources=[SPECS["a"]], target=SPECS["b"]).save_pretrained(tmp_path / "adapter")
    login("bob")
    assert report_of(tmp_path, "info", address) == report_of(tmp_path, "info", folder) | {"license": "cc-by-4.0"}
    migrate = ["--adapter", tmp_path / "adapter", "--out"]
    for number, bank in enumerate((folder, address, f"{address}/in")):
        report_of(tmp_path, "migrate", "--bank", bank, *migrate, tmp_path / f"out-{number}")
    banks = [PromptBank.from_pretrained(tmp_path / f"out-{number}") for number in range(3)]
    assert all((bank.prompts == banks[0].prompts).all() and len(bank) == len(make_source()) for bank in banks)
    make_interactions().to_csv(tmp_path / "rows.csv", index=False)
    chosen = ["--interactions", tmp_path / "rows.csv", "--budget", 3, "--out", tmp_path / "users.txt"]
    report_of(tmp_path, "select", "--bank", address, *chosen)
    assert len((tmp_path / "users.txt").read_text().split()) == 3
    assert len(open_prompts(address)) == len(make_source())
    assert HubServer.token("bob") not in "".join(capsys.readouterr())


def test_from_a_bucket_to_a_place_of_fsspec(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    bank = make_bank(20)
    adapter = make_trained(bank)
    bank.push_to_bucket(ADDRESS, max_shard_size=1000)
    migrate_between((tmp_path / "there").as_uri(), adapter, ADDRESS)
    found, expected = PromptBank.from_pretrained(tmp_path / "there"), migrate_to(tmp_path / "here", adapter, bank)
    assert found.user_ids == expected.user_ids and np.array_equal(found.prompts, expected.prompts)
    assert (tmp_path / "there/data/train-00002-of-00003.parquet").is_file()


def test_wrong_use_of_the_commands(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    folder, adapter = tmp_path / "bank", tmp_path / "adapter"
    make_source().save_pretrained(folder)
    make_adapter(sources=[SPECS["a"]], target=SPECS["b"]).save_pretrained(adapter)
    HfApi().create_bucket("lab/open", private=False)
    to_bucket = ["--bank", folder, "--adapter", adapter, "--out", ADDRESS]
    for arguments, said in (
        (("push", folder, "--bucket"), "no default name"),
        (("push", folder, "prompts", "--bucket"), "give hf://buckets/namespace/name"),
        (("push", adapter, "lab/prompts", "--bucket"), "leave --bucket out"),
        (("push", folder, "lab/prompts", "--bucket", "--revision", "main"), "keeps no revisions"),
        (("push", folder, "lab/prompts", "--bucket", "--message", "First"), "no commits"),
        (("push", folder, "lab/open", "--bucket"), "lab/open is public"),
        (("push", folder, "lab/open", "--bucket", "--private"), "lab/open is public"),
        (("migrate", *to_bucket), "publish that with puma-hub push"),
    ):
        assert said in error_of(capsys, *arguments, status=2)
    assert list(hub.state.buckets) == ["lab/open"] and not hub.bucket("lab/open").entries
    assert main(["push", str(folder), "lab/open", "--bucket", "--public"]) == 0
