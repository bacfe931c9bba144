"""The test Hub: rights, repositories and commits, by the real clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = np.random.default_rng(0).bytes(200_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a card, a config and weights in a subfolder."""
    root = tmp_path / "folder"
    (root / "weights").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: mit\n---\n# thing\n")
    (root / "config.json").write_text('{"model_type": "thing"}')
    (root / "weights" / "model.safetensors").write_bytes(WEIGHTS)
    return root


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


# Accounts and rights


def test_who_a_token_belongs_to(api: HfApi, hub) -> None:
    assert (api.whoami()["name"], [org["name"] for org in api.whoami()["orgs"]]) == ("alice", ["lab"])
    assert api.whoami(token=hub.token("bob", "read"))["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_nobody")


def test_a_bad_token_is_refused_everywhere(api: HfApi) -> None:
    api.create_repo("alice/open")
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(token="hf_nobody").model_info("alice/open")
    assert caught.value.response.status_code == 401
    assert not isinstance(caught.value, RepositoryNotFoundError)


def test_a_private_repository_exists_for_its_owner_only(api: HfApi, hub, login, folder: Path) -> None:
    api.create_repo("alice/secret", private=True)
    api.upload_folder(repo_id="alice/secret", folder_path=folder)
    assert Path(hf_hub_download("alice/secret", "config.json")).exists()
    for user in ("bob", None):
        login(user)
        hub.empty_cache()
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("alice/secret", "config.json")
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("alice/secret")
        with pytest.raises(RepositoryNotFoundError):
            HfApi().model_info("alice/secret")
        assert list(HfApi().list_models()) == []
        assert not HfFileSystem().exists("alice/secret/config.json")
    api.update_repo_settings("alice/secret", private=False, token=hub.token("alice"))
    assert Path(hf_hub_download("alice/secret", "config.json", token=False)).exists()
    assert [model.id for model in HfApi().list_models()] == ["alice/secret"]


def test_who_may_write(api: HfApi, hub, folder: Path) -> None:
    api.create_repo("alice/open")
    attempts: list[Callable[[HfApi], object]] = [
        lambda client: client.upload_folder(repo_id="alice/open", folder_path=folder),
        lambda client: client.create_repo("alice/another"),
        lambda client: client.delete_repo("alice/open"),
        lambda client: client.create_tag("alice/open", tag="v1"),
        lambda client: client.update_repo_settings("alice/open", private=True),
    ]
    for token, status in ((hub.token("alice", "read"), 403), (hub.token("bob"), 403), (False, 401)):
        for attempt in attempts:
            with pytest.raises(HfHubHTTPError) as caught:
                attempt(HfApi(token=token))
            assert caught.value.response.status_code == status
    assert hub.repository("alice/open").files().keys() == {".gitattributes"}


def test_an_organisation_has_writers_and_readers(api: HfApi, hub, folder: Path) -> None:
    api.create_repo("lab/shared", private=True)
    api.upload_folder(repo_id="lab/shared", folder_path=folder)
    reader = HfApi(token=hub.token("bob"))
    assert reader.model_info("lab/shared").private
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.delete_file("config.json", "lab/shared")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("lab/shared")


def test_a_gated_repository_shows_itself_but_not_its_files(api: HfApi, hub, login, folder: Path) -> None:
    api.create_repo("alice/gated")
    api.upload_folder(repo_id="alice/gated", folder_path=folder)
    api.update_repo_settings("alice/gated", gated="auto")
    for user in ("bob", None):
        login(user)
        hub.empty_cache()
        assert HfApi().model_info("alice/gated").gated == "auto"
        with pytest.raises(GatedRepoError):
            hf_hub_download("alice/gated", "config.json")
        with pytest.raises(GatedRepoError):
            snapshot_download("alice/gated")
    api.grant_access("alice/gated", "bob", token=hub.token("alice"))
    assert Path(hf_hub_download("alice/gated", "config.json", token=hub.token("bob"))).exists()


# Repositories and commits


def test_create(api: HfApi) -> None:
    url = api.create_repo("alice/thing")
    assert (url.repo_id, url.repo_type) == ("alice/thing", "model")
    assert api.create_repo("alice/thing", exist_ok=True) == url
    for taken in ("alice/thing", "alice/Thing"):  # case does not tell names apart
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_repo(taken)
    assert api.create_repo("thing", repo_type="dataset").repo_id == "alice/thing"
    assert api.model_info("alice/thing").sha != api.dataset_info("alice/thing").sha
    response = httpx2.post(
        f"{api.endpoint}/api/repos/create",
        json={"name": "a--b"},
        headers=api._build_hf_headers(),  # the client would refuse the name itself
    )
    assert response.status_code == 400


def test_upload_is_one_commit_and_a_second_time_none(api: HfApi, hub, folder: Path) -> None:
    api.create_repo("alice/thing")
    done = api.upload_folder(repo_id="alice/thing", folder_path=folder, commit_message="All at once")
    stored = hub.repository("alice/thing")
    assert done.oid == stored.head() == api.model_info("alice/thing").sha
    assert stored.files() == {
        ".gitattributes": stored.files()[".gitattributes"],
        **{str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()},
    }
    commits = api.list_repo_commits("alice/thing")
    assert [commit.title for commit in commits] == ["All at once", "initial commit"]
    assert commits[0].authors == ["alice"]
    hub.clear_requests()
    api.upload_folder(repo_id="alice/thing", folder_path=folder)
    assert stored.head() == done.oid
    assert not [request for request in hub.requests if request.method == "PUT" or "/commit/" in request.path]


def test_a_snapshot_is_what_was_uploaded(api: HfApi, hub, login, folder: Path) -> None:
    api.create_repo("alice/thing")
    api.upload_folder(repo_id="alice/thing", folder_path=folder)
    login("bob")
    hub.clear_requests()
    found = Path(snapshot_download("alice/thing"))
    for path in folder.rglob("*.*"):
        assert (found / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert hub.opened() == set(hub.repository("alice/thing").files())
    assert hub.downloaded() == sum(map(len, hub.repository("alice/thing").files().values()))
    assert {request.user for request in hub.requests} == {"bob"}
    hub.clear_requests()
    snapshot_download("alice/thing")
    assert hub.downloaded() == 0  # cached
    hub.empty_cache()
    assert snapshot_download("alice/thing") != str(found)
    assert hub.opened() == set(hub.repository("alice/thing").files())


def test_files_are_deleted_and_history_keeps_them(api: HfApi, hub, folder: Path) -> None:
    api.create_repo("alice/thing")
    first = api.upload_folder(repo_id="alice/thing", folder_path=folder).oid
    api.delete_file("config.json", "alice/thing")
    api.delete_folder("weights", "alice/thing")
    assert api.list_repo_files("alice/thing") == [".gitattributes", "README.md"]
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("alice/thing", "config.json")
    assert Path(hf_hub_download("alice/thing", "config.json", revision=first)).exists()
    with pytest.raises(RemoteEntryNotFoundError):
        api.delete_file("config.json", "alice/thing")


def test_a_commit_is_whole_or_not_at_all(api: HfApi, hub) -> None:
    api.create_repo("alice/thing")
    before = hub.repository("alice/thing").head()
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit(
            "alice/thing", [add("new.txt", b"x"), CommitOperationDelete("missing.txt")], commit_message="half"
        )
    assert hub.repository("alice/thing").head() == before
    headers = {**api._build_hf_headers(), "Content-Type": "application/x-ndjson"}
    lines = '{"key": "header", "value": {"summary": "s"}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "00"}}'
    answer = httpx2.post(f"{api.endpoint}/api/models/alice/thing/commit/main", content=lines, headers=headers)
    assert answer.status_code == 400 and "not uploaded" in answer.text
    assert hub.repository("alice/thing").head() == before


def test_a_commit_on_an_outdated_parent_is_refused(api: HfApi, hub) -> None:
    api.create_repo("alice/thing")
    parent = hub.repository("alice/thing").head()
    api.create_commit("alice/thing", [add("a.txt", b"a")], commit_message="first", parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        api.create_commit("alice/thing", [add("b.txt", b"b")], commit_message="second", parent_commit=parent)
    assert caught.value.response.status_code == 412
    assert "b.txt" not in hub.repository("alice/thing").files()


def test_branches_tags_and_pinned_revisions(api: HfApi, hub) -> None:
    api.create_repo("alice/thing")
    api.upload_file(path_or_fileobj=b"one", path_in_repo="file.txt", repo_id="alice/thing")
    api.create_tag("alice/thing", tag="v1")
    first = hub.repository("alice/thing").head()
    api.upload_file(path_or_fileobj=b"two", path_in_repo="file.txt", repo_id="alice/thing")
    api.create_branch("alice/thing", branch="feature/x", revision="v1")
    api.upload_file(path_or_fileobj=b"three", path_in_repo="file.txt", repo_id="alice/thing", revision="feature/x")
    expected = {None: b"two", "main": b"two", "v1": b"one", first: b"one", first[:8]: b"one", "feature/x": b"three"}
    for revision, content in expected.items():
        assert Path(hf_hub_download("alice/thing", "file.txt", revision=revision)).read_bytes() == content
        assert (Path(snapshot_download("alice/thing", revision=revision)) / "file.txt").read_bytes() == content
    assert api.model_info("alice/thing", revision="v1").sha == first
    refs = api.list_repo_refs("alice/thing")
    assert ({ref.name for ref in refs.branches}, {ref.name for ref in refs.tags}) == ({"main", "feature/x"}, {"v1"})
    assert refs.tags[0].target_commit == first
    for again in (
        lambda: api.create_tag("alice/thing", tag="v1"),
        lambda: api.create_branch("alice/thing", branch="main"),
    ):
        with pytest.raises(HfHubHTTPError, match="409"):
            again()
    api.create_tag("alice/thing", tag="v1", exist_ok=True)
    api.delete_tag("alice/thing", tag="v1")
    api.delete_branch("alice/thing", branch="feature/x")
    for gone in ("v1", "feature/x", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("alice/thing", revision=gone)
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download("alice/thing", "file.txt", revision=gone)


def test_history_is_squashed_and_lfs_files_are_purged(api: HfApi, hub) -> None:
    api.create_repo("alice/bank", repo_type="dataset")
    for content in (b"old\0", b"new\0"):
        api.upload_file(path_or_fileobj=content, path_in_repo="data.parquet", repo_id="alice/bank", repo_type="dataset")
    old = hub.repository("alice/bank", "dataset").history()[1].oid
    assert (
        Path(hf_hub_download("alice/bank", "data.parquet", repo_type="dataset", revision=old)).read_bytes() == b"old\0"
    )
    api.super_squash_history("alice/bank", repo_type="dataset")
    assert len(api.list_repo_commits("alice/bank", repo_type="dataset")) == 1
    hub.empty_cache()
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("alice/bank", "data.parquet", repo_type="dataset", revision=old)
    assert Path(hf_hub_download("alice/bank", "data.parquet", repo_type="dataset")).read_bytes() == b"new\0"
    kept = list(api.list_lfs_files("alice/bank", repo_type="dataset"))
    assert [(file.filename, file.size) for file in kept] == [("data.parquet", 4)]
    api.permanently_delete_lfs_files("alice/bank", kept, repo_type="dataset")
    assert list(api.list_lfs_files("alice/bank", repo_type="dataset")) == []
    assert api.list_repo_files("alice/bank", repo_type="dataset") == [".gitattributes"]


def test_a_repository_is_deleted(api: HfApi) -> None:
    api.create_repo("alice/thing")
    api.delete_repo("alice/thing")
    assert not api.repo_exists("alice/thing")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("alice/thing")
    api.delete_repo("alice/thing", missing_ok=True)
