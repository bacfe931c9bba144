"""Adapters on the Hub: publishing and loading over HTTP with the real clients, with every fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel

import puma_hub
from puma_hub import ModelSpec, PumaAdapter, find_adapters, pair_repo_id
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts, Evaluation, Training
from puma_hub.adapter.publish import write_card
from puma_hub.errors import (
    CheckpointError,
    ConfigurationError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubUnavailableError,
    StorageError,
)
from puma_hub.hub.naming import pair_tags
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter

SOURCE = ModelSpec("org/llama-1b", 32, fingerprint="a" * 16)
TARGET = ModelSpec("org/gemma-2b", 24, revision="v1", fingerprint="b" * 16)
NAME = pair_repo_id(SOURCE, TARGET)
FILES = {".gitattributes", "README.md", "config.json", "model.safetensors"}


def pair_adapter(seed: int = 0, **options: object) -> PumaAdapter:
    return make_adapter(seed=seed, **{"sources": [SOURCE], "target": TARGET, "template": "rating", **options})


def facts(rmse: float = 0.97, dataset: str = "movielens-100k") -> AdapterFacts:
    metrics = {
        "user_mean": {"rmse": np.float32(1.02), "mae": np.float32(0.81)},
        "migrated": {"rmse": np.float32(rmse), "mae": np.float32(0.75)},
        "retrained": {"rmse": 0.95, "mae": 0.73},
    }
    evaluation = Evaluation(dataset, "validation", 6000, 600, metrics)
    training = Training(60, 600, selection="puma", data=dataset, samples=4800, seed=42, time_ratio=5.5, flops_ratio=8.0)
    return AdapterFacts((evaluation,), training, license="apache-2.0", intended_use="Films only.\n# Not <b>books</b>")


def folder_of(tmp_path: Path, adapter: PumaAdapter, known: AdapterFacts | None, name: str = "adapter") -> PumaAdapter:
    """The adapter saved with its card, and loaded from there."""
    adapter.save_pretrained(tmp_path / name)
    write_card(adapter, tmp_path / name, known)
    loaded: PumaAdapter = PumaAdapter.from_pretrained(tmp_path / name)
    return loaded


def same(first: PumaAdapter, second: PumaAdapter) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# Publishing


def test_push_is_one_commit_with_everything(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    adapter = folder_of(tmp_path, pair_adapter(), facts())
    commit = adapter.push_to_hub()
    assert commit.repo_url.repo_id == f"alice/{NAME}"
    repository = hub.repository(f"alice/{NAME}")
    assert commit.oid == repository.head() and set(repository.files()) == FILES | {FACTS_FILE}
    assert len(HfApi().list_repo_commits(f"alice/{NAME}")) == 2  # the Hub's own first one, and this
    card = repository.files()["README.md"].decode()
    assert f'from_pretrained("alice/{NAME}")' in card and 'namespace="alice"' in card
    assert "license: apache-2.0" in card
    login("bob")
    hub.empty_cache()
    hub.clear_requests()
    loaded = PumaAdapter.from_pretrained(f"alice/{NAME}", revision=commit.oid)
    assert same(loaded, adapter) and hub.opened(f"alice/{NAME}") == {"config.json", "model.safetensors"}


def test_push_again_replaces_and_can_go_elsewhere(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    first = pair_adapter(0).push_to_hub("alice/own-name", private=True)
    hub.repository("alice/own-name").commit({"model-00001-of-00002.safetensors": b"old", "notes.md": b"kept"}, "old")
    pair_adapter(1).push_to_hub("alice/own-name", commit_message="Second")
    repository = hub.repository("alice/own-name")
    assert repository.private and set(repository.files()) == FILES | {"notes.md"}
    assert same(PumaAdapter.from_pretrained("alice/own-name"), pair_adapter(1))
    assert same(PumaAdapter.from_pretrained("alice/own-name", revision=first.oid), pair_adapter(0))
    pair_adapter(2).push_to_hub("alice/own-name", revision="trial")
    assert same(PumaAdapter.from_pretrained("alice/own-name", revision="trial"), pair_adapter(2))
    assert same(PumaAdapter.from_pretrained("alice/own-name"), pair_adapter(1))
    pair_adapter(3).save_pretrained(tmp_path / "saved", push_to_hub=True, private=True)
    assert hub.repository("alice/saved").private


def test_an_edited_card_is_kept_and_found(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    adapter = folder_of(tmp_path, pair_adapter(), facts())
    readme = tmp_path / "adapter" / "README.md"
    readme.write_text("---\nlicense: mit\ntags: [films]\nlibrary_name: other\n---\n# My words\n")
    adapter.push_to_hub("alice/edited")
    card = ModelCard(hub.repository("alice/edited").files()["README.md"].decode())
    assert "# My words" in card.text and card.data.license == "mit" and "films" in card.data.tags
    assert [found.repo_id for found in find_adapters(SOURCE, TARGET)] == ["alice/edited"]
    adapter.push_to_hub("alice/given", card="# Just this\n")
    assert "# Just this" in hub.repository("alice/given").files()["README.md"].decode()
    assert len(find_adapters([SOURCE], TARGET)) == 2
    readme.write_text("---\ntags: [films]\nlanguage: [en]\n---\n# Mine\n")
    adapter.push_to_hub("alice/edited")
    card = ModelCard(hub.repository("alice/edited").files()["README.md"].decode())
    assert card.data.tags == [*pair_tags(SOURCE, TARGET), "films"] and card.data.tags[0] == "puma-hub"
    before = hub.repository("alice/edited").head()
    for broken in ("---\ntags: [films\n---\n", "---\nself: 1\n---\n", "---\nmodel-index: 5\n---\n"):
        readme.write_text(broken)
        with pytest.raises(ConfigurationError, match="metadata cannot be read"):
            adapter.push_to_hub("alice/edited")
    readme.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="UTF-8"):
        adapter.push_to_hub("alice/edited")
    assert hub.repository("alice/edited").head() == before
    readme.write_text("")
    with pytest.raises(ConfigurationError, match="empty"):
        adapter.push_to_hub("alice/edited")


def test_folders_as_ids_are_warned_of(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    local = replace(SOURCE, model_id="/models/llama")
    commit = pair_adapter(sources=[local]).push_to_hub()
    assert "1 of the adapter's models" in caplog.text and "/models" not in caplog.text
    assert "/models" not in hub.repository(commit.repo_url.repo_id).files()["README.md"].decode()
    assert PumaAdapter.from_pair(local, TARGET).config.sources == [local]
    with pytest.raises(HubNotFoundError):
        PumaAdapter.from_pair("/other/llama", TARGET)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, HubAccessError),
        ({"status": 403}, HubAccessError),
        ({"status": 409}, HubError),
        ({"status": 429, "headers": {"Retry-After": "7"}}, HubUnavailableError),
        ({"status": 500}, HubUnavailableError),
    ],
)
@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/lfs-objects/", "/commit/"])
def test_a_failed_push_leaves_the_newest_revision_whole(
    hub: HubServer,
    login: Callable[..., None],
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    fault: dict[str, Any],
    error: type[Exception],
) -> None:
    monkeypatch.setattr("puma_hub.hub.newest._PAUSE", 0.0)
    login("alice")
    pair_adapter(0).push_to_hub("alice/adapter")
    before = hub.repository("alice/adapter").head()
    hub.fail(**fault, method=None, path_contains=where, times=None)
    with pytest.raises(error) as caught:
        pair_adapter(1).push_to_hub("alice/adapter")
    text = str(caught.value)
    assert "push to alice/adapter" in text and "\n" not in text and HubServer.token("alice") not in text
    assert hub.repository("alice/adapter").head() == before
    hub.clear_faults()
    hub.empty_cache()
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter(0))
    pair_adapter(1).push_to_hub("alice/adapter")
    hub.empty_cache()
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter(1))


@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/lfs-objects/", "/commit/"])
def test_a_cut_push(hub: HubServer, login: Callable[..., None], quick_retries: None, where: str) -> None:
    login("alice")
    pair_adapter(0).push_to_hub("alice/adapter")
    hub.drop(path_contains=where, times=None)
    with pytest.raises(HubUnavailableError, match="connection broke"):
        pair_adapter(1).push_to_hub("alice/adapter")
    hub.clear_faults()
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter(0))


def test_a_repository_that_cannot_be_made(hub: HubServer, login: Callable[..., None], quick_retries: None) -> None:
    login("alice")
    for status, error in ((403, HubAccessError), (429, HubUnavailableError), (500, HubUnavailableError)):
        hub.fail(status, path_contains="/repos/create", times=None)
        with pytest.raises(error, match=NAME):
            pair_adapter().push_to_hub()
        hub.clear_faults()
        assert find_adapters() == []


def test_push_without_rights(hub: HubServer, login: Callable[..., None]) -> None:
    for user, right, match in ((None, "write", "log in"), ("bob", "read", "right"), ("bob", "write", "right")):
        login(user, right)
        with pytest.raises(HubError, match=match):
            pair_adapter().push_to_hub("alice/adapter")
    login("alice")
    for name in ("a--b", "a/b/c", "alice/ü"):
        with pytest.raises(ConfigurationError, match="push to"):
            pair_adapter().push_to_hub(name)


# Loading


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("status", "error"),
    [(401, HubError), (403, HubAccessError), (404, HubError), (429, HubUnavailableError), (500, HubUnavailableError)],
)
def test_load_faults(
    hub: HubServer,
    login: Callable[..., None],
    quick_retries: None,
    path: str,
    status: int,
    error: type[Exception],
) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/adapter")
    hub.empty_cache()
    hub.fail(status, path_contains=path, times=None, headers={"Retry-After": "1"} if status == 429 else None)
    with pytest.raises(error) as caught:
        PumaAdapter.from_pretrained("alice/adapter")
    assert "\n" not in str(caught.value) and "alice/adapter" in str(caught.value)
    hub.clear_faults()
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter())  # no half of it was cached


def test_a_cut_or_busy_download_is_retried(hub: HubServer, login: Callable[..., None], quick_retries: None) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/adapter")
    hub.empty_cache()
    cut = hub.cut(5000, method="GET", path_contains="model.safetensors", times=2)
    busy = hub.fail(429, method="GET", path_contains="config.json", headers={"Retry-After": "1"}, times=1)
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter())
    assert cut.hits == 2 and busy.hits == 1


def test_what_was_loaded_once_loads_without_the_hub(
    hub: HubServer, login: Callable[..., None], quick_retries: None
) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/adapter")
    hub.empty_cache()
    hub.cut(0, method="GET", path_contains="model.safetensors", times=None)
    with pytest.raises(HubUnavailableError):
        PumaAdapter.from_pretrained("alice/adapter")
    hub.drop(times=None)
    with pytest.raises(HubUnavailableError, match="cannot be reached"):  # the config alone is no adapter
        PumaAdapter.from_pretrained("alice/adapter")
    hub.clear_faults()
    PumaAdapter.from_pretrained("alice/adapter")
    hub.fail(503, times=None)
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter())


def test_another_model_is_told_before_its_weights_are_fetched(hub: HubServer) -> None:
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"x" * 1000}
    hub.create_repository("org/llama-1b", files=files)
    with pytest.raises(CheckpointError, match="type 'llama'"):
        PumaAdapter.from_pretrained("org/llama-1b")
    assert hub.opened() == {"config.json"}


def test_who_may_not_read(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/secret", private=True)
    pair_adapter().push_to_hub("alice/gated")
    HfApi().update_repo_settings("alice/gated", gated="auto")
    for user in ("bob", None):
        login(user)
        hub.empty_cache()
        with pytest.raises(HubNotFoundError, match="private"):
            PumaAdapter.from_pretrained("alice/secret")
        with pytest.raises(HubAccessError, match="gated"):
            PumaAdapter.from_pretrained("alice/gated")
        with pytest.raises(HubAccessError, match="gated"):  # the only one that is seen
            PumaAdapter.from_pair(SOURCE, TARGET)
    mine = PumaAdapter.from_pretrained("alice/secret", token=HubServer.token("alice"))  # a token by hand
    assert same(mine, pair_adapter()) and HubServer.token("alice") not in repr(mine)
    login("alice")
    with pytest.raises(HubNotFoundError, match="no such revision"):
        PumaAdapter.from_pretrained("alice/secret", revision="v9")


def test_unknown_keys_load_and_newer_formats_name_the_version(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/adapter")
    repository = hub.repository("alice/adapter")
    config = json.loads(repository.files()["config.json"])
    assert config["puma_hub_version"] == puma_hub.__version__
    repository.commit({"config.json": json.dumps({**config, "from_the_future": {"a": [1]}}).encode()}, "keys")
    assert same(PumaAdapter.from_pretrained("alice/adapter"), pair_adapter())
    for version, told in (("3.1.0", "'puma_hub>=3.1.0'"), ("$(x)'; y", "'puma_hub'")):
        newer = {**config, "format_version": 2, "puma_hub_version": version}
        repository.commit({"config.json": json.dumps(newer).encode()}, "newer")
        hub.empty_cache()
        with pytest.raises(ConfigurationError, match="format 2") as caught:
            PumaAdapter.from_pretrained("alice/adapter")
        assert told in str(caught.value) and version not in str(caught.value).replace(told, "")


def test_neither_pickle_nor_code_is_opened(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    pair_adapter().push_to_hub()
    repository = hub.repository(f"alice/{NAME}")
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')\nclass PumaConfig: ...\nclass PumaAdapter: ...\n".encode()
    config = json.loads(repository.files()["config.json"])
    config["auto_map"] = {"AutoConfig": "evil.PumaConfig", "AutoModel": "evil.PumaAdapter"}
    torch.save({"base": torch.ones(1)}, tmp_path / "weights.bin")
    pickle = (tmp_path / "weights.bin").read_bytes()
    evil = {"pytorch_model.bin": pickle, "training_args.bin": pickle, "optimizer.pt": pickle, "evil.py": code}
    repository.commit({**evil, "modeling_puma.py": code, "config.json": json.dumps(config).encode()}, "evil")
    hub.empty_cache()
    hub.clear_requests()
    for load in (PumaAdapter.from_pretrained, AutoModel.from_pretrained):
        assert same(load(f"alice/{NAME}"), pair_adapter())
    assert same(PumaAdapter.from_pair(SOURCE, TARGET), pair_adapter())
    asked = {request.filename for request in hub.requests if request.filename}
    assert not {name for name in asked if name.endswith((".py", ".pt", ".bin"))}
    assert hub.opened() == {"config.json", "model.safetensors"} and not mark.exists()
    repository.commit({"model.safetensors": None}, "pickle alone")
    hub.empty_cache()
    hub.clear_requests()
    with pytest.raises(HubNotFoundError, match=r"lacks the file model\.safetensors"):
        PumaAdapter.from_pretrained(f"alice/{NAME}")
    assert hub.opened() == {"config.json"} and not mark.exists()
