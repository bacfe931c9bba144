"""The test Hub serves every flow of the real clients, and shows every fault it is told to."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import httpx2
import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import make_model, make_tokenizer

CARD = """---
library_name: thing
license: mit
tags: [soft-prompt, pair]
base_model: [meta/source-7B, google/target-2b]
base_model_relation: finetune
model-index:
- name: {name}
  results:
  - task: {{type: text-classification}}
    dataset: {{type: ratings, name: Ratings}}
    metrics: [{{type: rmse, value: {value}}}]
---
# {name}
"""
WEIGHTS = np.random.default_rng(0).bytes(200_000)


@pytest.fixture
def api(hub, login) -> HfApi:
    """The client of alice, who is logged in."""
    login("alice")
    return HfApi()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a card, a config and weights in a subfolder."""
    root = tmp_path / "folder"
    (root / "weights").mkdir(parents=True)
    (root / "README.md").write_text(CARD.format(name="thing", value=0.9))
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


# What is said of repositories


def test_model_info_comes_from_the_card(api: HfApi, folder: Path) -> None:
    api.create_repo("alice/thing")
    api.upload_folder(repo_id="alice/thing", folder_path=folder)
    info = api.model_info("alice/thing", files_metadata=True)
    assert (info.author, info.library_name, info.private, info.gated) == ("alice", "thing", False, False)
    assert {
        "thing",
        "safetensors",
        "pair",
        "license:mit",
        "model-index",
        "base_model:meta/source-7B",
        "base_model:finetune:google/target-2b",
    } <= set(info.tags)
    assert info.card_data.base_model == ["meta/source-7B", "google/target-2b"]
    assert [result.metric_value for result in info.card_data.eval_results] == [0.9]
    assert info.model_index[0]["name"] == "thing"
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in info.siblings}
    assert sizes["weights/model.safetensors"] == (len(WEIGHTS), True)
    assert sizes["config.json"] == (23, False)
    expanded = api.model_info("alice/thing", expand=["baseModels", "sha"])
    assert expanded.base_models["relation"] == "finetune" and expanded.tags is None
    with pytest.raises(BadRequestError, match="no_such_fact"):
        api.model_info("alice/thing", expand=["no_such_fact"])


def test_models_are_found_by_all_their_tags_page_by_page(api: HfApi, hub) -> None:
    for number in range(7):
        card = CARD.format(name=f"m{number}", value=number)
        hub.create_repository(f"{'alice' if number else 'bob'}/m{number}", files={"README.md": card.encode()})
    hub.create_repository("alice/other", files={"README.md": b"---\ntags: [pair]\n---\n"})
    hub.page_size = 3
    both = ["soft-prompt", "base_model:google/target-2b"]
    found = list(api.list_models(filter=both, cardData=True, sort="created_at"))
    assert [model.id for model in found] == [f"alice/m{number}" for number in range(6, 0, -1)] + ["bob/m0"]
    assert [result.metric_value for model in found for result in model.card_data.eval_results] == [6, 5, 4, 3, 2, 1, 0]
    assert len([request for request in hub.requests if request.path == "/api/models"]) == 3
    assert {model.id for model in api.list_models(filter="pair")} >= {"alice/other", "bob/m0"}
    assert list(api.list_models(filter=[*both, "base_model:nobody/nothing"])) == []
    assert [model.id for model in api.list_models(filter=both, author="bob")] == ["bob/m0"]
    assert [model.id for model in api.list_models(search="M3")] == ["alice/m3"]
    hub.clear_requests()
    assert len(list(api.list_models(filter=both, limit=2))) == 2
    assert len(hub.requests) == 1
    assert found[0].sha is None and next(iter(api.list_models(full=True))).sha is not None
    assert next(iter(api.list_models(author="bob", expand=["cardData"]))).card_data.license == "mit"


def test_datasets_are_listed_by_their_tags(api: HfApi, hub) -> None:
    hub.create_repository("alice/bank", "dataset", files={"README.md": b"---\ntags: [bank]\nlicense: mit\n---\n"})
    hub.create_repository("alice/else", "dataset")
    hub.create_repository("alice/model")
    assert [data.id for data in api.list_datasets(filter=["bank", "license:mit"])] == ["alice/bank"]
    assert api.dataset_info("alice/bank").card_data.tags == ["bank"]
    assert len(list(api.list_datasets(author="alice"))) == 2


def test_trees_and_paths(api: HfApi, hub) -> None:
    files = {f"data/part-{number}/x.txt": b"x" for number in range(5)} | {"top.txt": b"top"}
    hub.create_repository("alice/thing", files=files)
    hub.page_size = 2
    assert {entry.path for entry in api.list_repo_tree("alice/thing")} == {".gitattributes", "data", "top.txt"}
    assert len(list(api.list_repo_tree("alice/thing", "data", recursive=True))) == 10
    infos = api.get_paths_info("alice/thing", ["top.txt", "data", "missing"], expand=True)
    assert [type(info).__name__ for info in infos] == ["RepoFile", "RepoFolder"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("alice/thing", "missing"))
    assert HfFileSystem().glob("alice/thing/data/*/x.txt")[-1] == "alice/thing/data/part-4/x.txt"


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ("license: no-such-licence", "license"),
        ("base_model: /home/me/model", "base_model"),
        ("base_model: a/b\nbase_model_relation: cousin", "base_model_relation"),
        ("tags: [1, 2]", "tags"),
        ("model-index:\n- results: []", "model-index"),
        ("model-index:\n- name: x\n  results:\n  - task: {type: t}\n    metrics: [{type: rmse}]", "metrics"),
        ("tags: [", "YAML"),
    ],
)
def test_wrong_card_metadata_are_refused(api: HfApi, hub, lines: str, wrong: str) -> None:
    api.create_repo("alice/thing")
    card = f"---\n{lines}\n---\ntext\n"
    with pytest.raises(ValueError, match=wrong):
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="alice/thing")
    assert "README.md" not in hub.repository("alice/thing").files()


def test_cards_are_pushed_and_read(api: HfApi) -> None:
    api.create_repo("alice/thing")
    card = ModelCard(CARD.format(name="thing", value=1))
    card.validate()
    card.push_to_hub("alice/thing")
    assert ModelCard.load("alice/thing").content == card.content


# Parts of files, models, datasets


def test_a_part_of_a_file_is_read_alone(api: HfApi, hub, folder: Path) -> None:
    api.create_repo("alice/thing")
    api.upload_folder(repo_id="alice/thing", folder_path=folder)
    hub.clear_requests()
    with HfFileSystem().open("alice/thing/weights/model.safetensors", block_size=4096) as file:
        file.seek(100_000)
        assert file.read(1000) == WEIGHTS[100_000:101_000]
        file.seek(-10, 2)
        assert file.read() == WEIGHTS[-10:]
    assert hub.opened() == {"weights/model.safetensors"}
    assert hub.downloaded() < 20_000
    assert all(
        request.range and request.status == 206
        for request in hub.requests
        if request.method == "GET" and request.filename
    )
    url = f"{hub.endpoint}/alice/thing/resolve/main/weights/model.safetensors"
    assert httpx2.get(url, headers={"Range": "bytes=-5"}).content == WEIGHTS[-5:]
    assert httpx2.get(url, headers={"Range": "bytes=199990-"}).content == WEIGHTS[199_990:]
    assert httpx2.get(url, headers={"Range": "bytes=200000-"}).status_code == 416


def test_a_model_goes_to_the_hub_and_back(api: HfApi, hub, login) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    model.push_to_hub("alice/tiny", private=True)
    tokenizer.push_to_hub("alice/tiny")
    hub.empty_cache()
    loaded = AutoModelForCausalLM.from_pretrained("alice/tiny")
    assert all(bool((a == b).all()) for a, b in zip(model.parameters(), loaded.parameters()))
    assert AutoTokenizer.from_pretrained("alice/tiny")("Toy Story") == tokenizer("Toy Story")
    login("bob")
    hub.empty_cache()
    with pytest.raises(OSError, match="alice/tiny"):
        AutoModelForCausalLM.from_pretrained("alice/tiny")


def test_a_dataset_is_pushed_loaded_and_streamed(api: HfApi, hub, login) -> None:
    rows = datasets.Dataset.from_dict(
        {"name": [f"user-{i}" for i in range(1000)], "value": [float(i) for i in range(1000)]}
    )
    rows.push_to_hub("alice/rows", private=True, num_shards=4)
    files = api.list_repo_files("alice/rows", repo_type="dataset")
    assert len([name for name in files if name.endswith(".parquet")]) == 4 and "README.md" in files
    hub.empty_cache()
    hub.clear_requests()
    assert datasets.load_dataset("alice/rows", split="train")["value"][:] == rows["value"][:]
    assert all(name.endswith((".parquet", "README.md")) for name in hub.opened())
    hub.empty_cache()
    hub.clear_requests()
    stream = datasets.load_dataset("alice/rows", split="train", streaming=True)
    assert [row["value"] for row in stream.take(3)] == [0.0, 1.0, 2.0]
    assert len([name for name in hub.opened() if name.endswith(".parquet")]) < 4
    assert [row["value"] for row in stream] == rows["value"][:]
    rows.select(range(10)).push_to_hub("alice/rows")
    assert len(datasets.load_dataset("alice/rows", split="train")) == 10
    login("bob")
    hub.empty_cache()
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset("alice/rows")


def test_children_talk_to_the_same_hub(api: HfApi, hub) -> None:
    api.create_repo("alice/thing", private=True)
    code = "from huggingface_hub import HfApi; print(HfApi().model_info('alice/thing').private)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# Faults


@pytest.fixture
def thing(api: HfApi, hub, folder: Path) -> str:
    """A filled repository; what it took to fill it is not on record."""
    api.create_repo("alice/thing")
    api.upload_folder(repo_id="alice/thing", folder_path=folder)
    hub.clear_requests()
    return "alice/thing"


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_every_status_reaches_the_client(hub, thing: str, status: int) -> None:
    fault = hub.fail(status, path_contains="/api/models/alice/thing")
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi().model_info(thing)
    assert caught.value.response.status_code == status
    assert fault.hits == 1
    assert HfApi().model_info(thing).id == thing  # once only


def test_faults_choose_their_requests(hub, thing: str) -> None:
    fault = hub.fail(500, method="GET", path_contains="/revision/", after=1, times=None, body=b"oops")
    assert HfApi().model_info(thing).id == thing
    assert HfApi().model_info(thing, revision="main").id == thing
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            HfApi().model_info(thing, revision="main")
    assert fault.hits == 2
    hub.clear_faults()
    assert HfApi().model_info(thing, revision="main").id == thing


def test_too_many_requests_are_tried_again_after_a_while(hub, thing: str, quick_retries: None) -> None:
    fault = hub.fail(429, method="GET", path_contains="model.safetensors", headers={"Retry-After": "1"}, times=2)
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    assert fault.hits == 2
    assert [request.status for request in hub.requests if request.method == "GET"] == [429, 429, 200]


def test_a_cut_download_goes_on_where_it_stopped(
    hub, thing: str, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # a chunk is what is kept
    hub.cut(50_000, method="GET", path_contains="model.safetensors")
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    first, second = [request for request in hub.requests if request.method == "GET"]
    assert (first.status, first.sent) == (200, 50_000)
    assert (second.status, second.range, second.sent) == (206, "bytes=50000-", len(WEIGHTS) - 50_000)


def test_a_download_cut_for_good_leaves_nothing_in_the_cache(hub, thing: str, quick_retries: None) -> None:
    hub.cut(10, method="GET", path_contains="model.safetensors")
    hub.drop(method="GET", path_contains="model.safetensors", times=None)
    with pytest.raises(httpx2.RemoteProtocolError):
        hf_hub_download(thing, "weights/model.safetensors")
    hub.clear_faults()
    hub.drop(times=None)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(thing, "weights/model.safetensors", local_files_only=True)


def test_a_slow_download_takes_its_time(hub, thing: str) -> None:
    hub.slow(0.02, chunk=len(WEIGHTS) // 10, method="GET", path_contains="model.safetensors")
    start = time.monotonic()
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    assert time.monotonic() - start >= 0.2


def test_a_slow_answer_times_out(hub, thing: str) -> None:
    hub.slow(30, path_contains="/api/models/alice/thing")
    with pytest.raises(httpx2.TimeoutException):
        HfApi().model_info(thing, timeout=0.2)


@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/lfs-objects/"])
def test_an_upload_survives_faults_on_its_way(hub, thing: str, quick_retries: None, where: str) -> None:
    refused = hub.fail(503, path_contains=where, times=2)
    dropped = hub.drop(path_contains=where)
    HfApi().upload_file(path_or_fileobj=WEIGHTS[::-1], path_in_repo="weights/model.safetensors", repo_id=thing)
    assert hub.repository(thing).files()["weights/model.safetensors"] == WEIGHTS[::-1]
    assert (refused.hits, dropped.hits) == (2, 1)


def test_a_commit_that_fails_changes_nothing(hub, thing: str) -> None:
    before = hub.repository(thing).head()
    hub.fail(500, method="POST", path_contains="/commit/")
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    hub.drop(method="POST", path_contains="/commit/")
    with pytest.raises(httpx2.TransportError):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    assert hub.repository(thing).head() == before


def test_a_commit_is_made_though_its_answer_is_lost(hub, thing: str) -> None:
    hub.cut(0, method="POST", path_contains="/commit/")
    with pytest.raises(httpx2.RemoteProtocolError):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    assert hub.repository(thing).files()["config.json"] == b"new"


def test_content_is_tampered_with(hub, thing: str) -> None:
    hub.tamper(lambda content: bytes(len(content)), method="GET", path_contains="model.safetensors")
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == bytes(len(WEIGHTS))
    hub.empty_cache()
    hub.tamper(lambda content: content[:-1], method="GET", path_contains="model.safetensors")
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download(thing, "weights/model.safetensors")


def test_a_stream_of_rows_survives_faults(api: HfApi, hub, quick_retries: None) -> None:
    rows = datasets.Dataset.from_dict({"value": list(range(5000))})
    rows.push_to_hub("alice/rows")
    hub.fail(503, method="GET", path_contains=".parquet", times=2)
    hub.cut(100, method="GET", path_contains=".parquet")
    stream = datasets.load_dataset("alice/rows", split="train", streaming=True)
    assert [row["value"] for row in stream] == rows["value"][:]


def test_an_unknown_name_is_refused_at_once(hub) -> None:
    start = time.monotonic()
    for name in ("gpt2", "nobody/nothing"):
        with pytest.raises(OSError, match=name):
            AutoTokenizer.from_pretrained(name)
    assert time.monotonic() - start < 5
