"""Adapters on the Hub: cards, publishing, finding and loading by pair, over HTTP with the real clients."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel

import puma_hub
from puma_hub import ModelSpec, PromptBank, PumaAdapter, find_adapters, pair_repo_id
from puma_hub.errors import (
    CheckpointError,
    ConfigurationError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubUnavailableError,
    MismatchError,
)
from puma_hub.hub.card import adapter_card
from puma_hub.hub.facts import FACTS_FILE, AdapterFacts, Evaluation, Training
from puma_hub.hub.find import read_listing
from puma_hub.hub.naming import pair_tag
from puma_hub.hub.publish import write_card
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
    return AdapterFacts((evaluation,), training, licence="apache-2.0", intended_use="Films only.\n# Not <b>books</b>")


def folder_of(tmp_path: Path, adapter: PumaAdapter, known: AdapterFacts | None, name: str = "adapter") -> PumaAdapter:
    """The adapter saved with its card, and loaded from there."""
    adapter.save_pretrained(tmp_path / name)
    write_card(adapter, tmp_path / name, known)
    loaded: PumaAdapter = PumaAdapter.from_pretrained(tmp_path / name)
    return loaded


def same(first: PumaAdapter, second: PumaAdapter) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# Cards


def test_card_is_stable_and_plain_yaml() -> None:
    texts = {str(adapter_card(pair_adapter(), "user/repo", facts())) for _ in range(3)}
    assert len(texts) == 1
    text = texts.pop()
    assert "!!python" not in text and not re.search(
        r"\{\{|\}\}|\{%|None", text.replace("{Don't", "").replace("LLMs},", "")
    )
    data = yaml.safe_load(text.split("---")[1])
    assert data["base_model"] == ["org/llama-1b", "org/gemma-2b"] and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "puma_hub" and data["license"] == "apache-2.0"
    assert pair_tag(SOURCE, TARGET) in data["tags"]
    result = data["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "validation" and result["dataset"]["args"] == {"rows": 6000, "users": 600}
    assert result["metrics"][0]["args"] == {"predictions": "migrated"}
    assert {metric["name"] for metric in result["metrics"]} >= {"RMSE, user mean (no LLM)"}
    assert ModelCard(text).data.eval_results[0].metric_value == pytest.approx(0.97)


def test_card_tells_what_it_should() -> None:
    text = str(adapter_card(pair_adapter(), "user/repo", facts()))
    for part in ("a" * 16, "b" * 16, "`v1`", "60 of 600 users", "`puma`", "5.5 times the time", "8.0 times the FLOPs"):
        assert part in text
    for heading in (
        "How to use it",
        "Evaluation",
        "Training",
        "Intended use",
        "Limits",
        "Privacy",
        "Licence",
        "Citation",
    ):
        assert f"\n## {heading}\n" in text
    assert "personal data" in text and "obligations of `org/llama-1b` and of `org/gemma-2b`" in text
    unknown = str(adapter_card(pair_adapter(), "user/repo"))
    assert "license" not in yaml.safe_load(unknown.split("---")[1]) and "stated no licence" in unknown
    assert "No evaluation was reported" in unknown


HOSTILE = [
    "org/<script>alert(1)</script>",
    "org/a\n---\n# title\n---",
    "org/`code` | cell",
    "org/[x](javascript:1) ![y](http://evil/y.png)",
    'org/"); import os; ("',
    "org/{{ config }}{% for x in y %}",
    "org/\u202egnp.exe\x00\x1b[31m",
    "/home/somebody/models/llama",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_from_elsewhere_becomes_markup(name: str) -> None:
    adapter = pair_adapter(sources=[replace(SOURCE, model_id=name)], template=f"{name.replace('<', '(')} <user>")
    evaluation = Evaluation(name, name, 10, 2, {"migrated": {"rmse": 1.0}})
    known = AdapterFacts((evaluation,), Training(2, selection=name, data=name), intended_use=f"{name}\n```\n# {name}")
    text = str(adapter_card(adapter, "user/repo", known))
    card = ModelCard(text)  # the metadata are still one block
    assert card.data.base_model == ["org/gemma-2b"] and card.data["puma_hub"]["target"]["model_id"] == "org/gemma-2b"
    benign = str(adapter_card(pair_adapter(), "user/repo", known))
    assert re.findall(r"^#.*", card.text, re.M)[1:] != [] and "somebody" not in card.text.split("## Evaluation")[0]
    assert len(re.findall(r"^## ", card.text, re.M)) == len(re.findall(r"^## ", ModelCard(benign).text, re.M))
    outside = re.sub(r"```.*?```", "", card.text, flags=re.S)  # what is not in a fence
    outside = re.sub(r"`[^`\n]*`", "", outside)  # nor in a code span
    assert "`" not in outside and "<" not in outside and "](" not in outside
    assert "javascript" not in outside and "evil" not in outside and "import os" not in outside
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
    for snippet in re.findall(r"```python\n(.*?)```", card.text, re.S):
        compile(snippet, "card", "exec")


@pytest.mark.parametrize("licence", ["my own", "MIT\nlicense: x", "<b>", "лиц"])
def test_a_licence_is_an_identifier(licence: str) -> None:
    with pytest.raises(ConfigurationError, match="licence"):
        AdapterFacts(licence=licence)


def test_facts_round_trip_and_refuse(tmp_path: Path) -> None:
    facts().write(tmp_path)
    assert AdapterFacts.read(tmp_path) == facts() and AdapterFacts.read(tmp_path / "none") is None
    data = json.loads((tmp_path / FACTS_FILE).read_text())
    assert AdapterFacts.from_dict({**data, "from_the_future": 1}) == facts()
    for broken in ({"evaluations": [{"dataset": "x"}]}, {"evaluations": 3}, {"training": {}, "evaluations": [[]]}):
        (tmp_path / FACTS_FILE).write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match="malformed"):
            AdapterFacts.read(tmp_path)
    for metrics in (
        {"source": {"rmse": 1.0}},
        {"migrated": {"rmse": float("nan")}},
        {"migrated": {"rmse": 1.0}, "x": {}},
    ):
        with pytest.raises(ConfigurationError):
            Evaluation("d", "s", 1, 1, metrics)
    report = {"rows": 5, "users": 2, "metrics": {"rmse": 1.0}, "baselines": {"user_mean": {"rmse": 1.1}}}
    assert Evaluation.from_reports("d", "s", {"migrated": report}).metrics["user_mean"] == {"rmse": 1.1}
    with pytest.raises(ConfigurationError, match="same rows"):
        Evaluation.from_reports("d", "s", {"migrated": report, "source": {**report, "rows": 6}})
    with pytest.raises(ConfigurationError, match="compare"):
        Evaluation.from_comparison("d", "s", report)


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
    assert same(loaded, adapter) and hub.opened(f"alice/{NAME}") <= {"config.json", "model.safetensors"}


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
    where: str,
    fault: dict[str, Any],
    error: type[Exception],
) -> None:
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
    assert hub.opened() <= {"config.json", "model.safetensors"} and not mark.exists()
    repository.commit({"model.safetensors": None}, "pickle alone")
    hub.empty_cache()
    hub.clear_requests()
    with pytest.raises(HubNotFoundError, match=r"lacks the file model\.safetensors"):
        PumaAdapter.from_pretrained(f"alice/{NAME}")
    assert hub.opened() <= {"config.json"} and not mark.exists()


# Finding


def test_find_by_source_target_and_namespace(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    other = ModelSpec("other/llama-1b", 16)
    pair_adapter().push_to_hub()
    pair_adapter(sources=[other]).push_to_hub()
    pair_adapter(target=ModelSpec("org/phi", 8)).push_to_hub("lab/phi")
    pair_adapter(sources=[SOURCE, other]).push_to_hub("lab/two")
    HfApi().create_repo("alice/unrelated")
    hub.page_size = 2

    def names(*arguments: Any, **options: Any) -> set[str]:
        return {adapter.repo_id for adapter in find_adapters(*arguments, **options)}

    first, second = f"alice/{NAME}", f"alice/{pair_repo_id(other, TARGET)}"
    assert names() == {first, second, "lab/phi", "lab/two"}
    assert names(SOURCE) == {first, "lab/phi", "lab/two"} == names("org/llama-1b")
    assert names(target="org/gemma-2b") == {first, second, "lab/two"}
    assert names("org/llama-1b", "org/gemma-2b") == {first, "lab/two"}
    assert names(["org/llama-1b"], "org/gemma-2b") == {first}
    assert names([SOURCE, other]) == {"lab/two"} and names([other, SOURCE]) == set()
    assert names(namespace="lab") == {"lab/phi", "lab/two"} and names("org/none") == set()
    found = find_adapters([SOURCE], TARGET)[0]
    assert found.sources == (SOURCE,) and found.target == TARGET and found.task == "rating"
    assert found.revision == hub.repository(first).head() and found.loss is None
    assert [spec.model_id for spec in find_adapters([SOURCE, other])[0].sources] == [SOURCE.model_id, other.model_id]


def test_wrong_and_hostile_cards_hide_nothing(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    commit = pair_adapter().push_to_hub()
    tags = ModelCard(hub.repository(commit.repo_url.repo_id).files()["README.md"].decode()).data.tags
    headers: dict[str, Any] = {
        "no-block": {},
        "text": {"puma_hub": "x"},
        "no-target": {"puma_hub": {"sources": [SOURCE.to_dict()]}},
        "sizes": {"puma_hub": {"sources": [{"model_id": "a", "hidden_size": "x"}], "target": TARGET.to_dict()}},
        "other-models": {"puma_hub": {"sources": [{"model_id": "a", "hidden_size": 1}], "target": TARGET.to_dict()}},
        "breaks-the-client": {"puma_hub": {}, "ignore_metadata_errors": True},
    }
    for name, header in headers.items():
        card = f"---\n{yaml.safe_dump({'library_name': 'puma_hub', 'tags': tags, **header})}---\n"
        hub.create_repository(f"bob/{name}", files={"README.md": card.encode()})
    assert [adapter.repo_id for adapter in find_adapters(SOURCE, TARGET)] == [f"alice/{NAME}"]
    assert PumaAdapter.from_pair(SOURCE, TARGET).published.repo_id == f"alice/{NAME}"


def test_figures_beside_the_card_data_and_strange_ones(
    hub: HubServer, login: Callable[..., None], tmp_path: Path
) -> None:
    login("alice")
    folder_of(tmp_path, pair_adapter(), facts()).push_to_hub("alice/adapter")
    info = HfApi().model_info("alice/adapter")
    info.card_data.eval_results = None
    adapter = read_listing(info)
    assert adapter is not None and adapter.loss == pytest.approx(0.97 / 0.95 - 1)
    for value, loss in (("x", None), (True, None), (float("inf"), None), (0.5, 0.0)):
        info = HfApi().model_info("alice/adapter")
        for result in info.card_data.eval_results:
            if result.metric_args == {"predictions": "migrated"}:
                result.metric_value = value
        adapter = read_listing(info)
        assert adapter is not None and (adapter.loss == loss or value is True)


# By pair


def test_from_pair_takes_the_best_evaluated_and_says_so(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    caplog.set_level(logging.INFO, "puma_hub")
    for seed, (name, known) in enumerate({"worse": facts(1.1), "best": facts(0.96), "unknown": None}.items()):
        folder_of(tmp_path, pair_adapter(seed), known, name).push_to_hub(f"alice/{name}")
    login("bob")
    adapter = PumaAdapter.from_pair("org/llama-1b", "org/gemma-2b")
    assert same(adapter, pair_adapter(1))
    assert (
        adapter.published.repo_id == "alice/best" and adapter.published.revision == hub.repository("alice/best").head()
    )
    assert "alice/best" in caplog.text and "best of 3" in caplog.text
    bank = PromptBank.from_arrays(["u"], np.ones((1, 1, 32)), SOURCE)
    assert np.array_equal(adapter.migrate(bank).prompts, pair_adapter(1).migrate(bank).prompts)
    # Several namespaces, none of them better known: the user has to choose.
    login("alice")
    for name in ("alice/x", "lab/x"):
        pair_adapter(target=ModelSpec("org/phi", 24)).push_to_hub(name)
    with pytest.raises(ConfigurationError, match="alice/x, lab/x"):
        PumaAdapter.from_pair(SOURCE, "org/phi")
    assert PumaAdapter.from_pair(SOURCE, "org/phi", namespace="lab").published.repo_id == "lab/x"


def test_from_pair_prefers_the_same_weights(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    other = replace(SOURCE, fingerprint="c" * 16)
    nameless = replace(SOURCE, fingerprint=None, revision="v2")
    for seed, (name, spec, rmse) in enumerate([("a", other, 0.95), ("b", SOURCE, 1.2), ("c", nameless, 1.0)]):
        folder_of(tmp_path, pair_adapter(seed, sources=[spec]), facts(rmse), name).push_to_hub(f"alice/{name}")
    assert PumaAdapter.from_pair(SOURCE, TARGET).published.repo_id == "alice/b"
    assert PumaAdapter.from_pair(other, TARGET).published.repo_id == "alice/a"
    assert PumaAdapter.from_pair("org/llama-1b", TARGET.to_dict()).published.repo_id == "alice/a"  # the best of all
    assert PumaAdapter.from_pair(nameless, TARGET).published.repo_id == "alice/c"
    with pytest.raises(MismatchError, match="other weights than yours") as caught:
        PumaAdapter.from_pair(SOURCE, replace(TARGET, fingerprint="d" * 16))
    assert "d" * 16 in str(caught.value) and "b" * 16 in str(caught.value)


def test_from_pair_pins_and_checks_what_it_loads(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    old = pair_adapter(0).push_to_hub()
    pair_adapter(1).push_to_hub()
    assert same(PumaAdapter.from_pair(SOURCE, TARGET, revision=old.oid), pair_adapter(0))
    with pytest.raises(HubNotFoundError, match="revision"):
        PumaAdapter.from_pair(SOURCE, TARGET, revision="none")
    with pytest.raises(HubNotFoundError, match=r"puma-none-to-gemma.*find_route"):
        PumaAdapter.from_pair("org/none", TARGET)
    # A card that promises another pair than the config holds.
    swapped = replace(SOURCE, model_id="org/other")
    card = adapter_card(pair_adapter(), f"alice/{NAME}")
    pair_adapter(sources=[swapped]).push_to_hub("alice/liar", card=str(card))
    liar = hub.repository("alice/liar")
    liar.commit({"README.md": str(card).encode()}, "lie")
    HfApi().delete_repo(f"alice/{NAME}")
    with pytest.raises(MismatchError, match="org/other"):
        PumaAdapter.from_pair(SOURCE, TARGET)


def test_search_faults(hub: HubServer, login: Callable[..., None], quick_retries: None) -> None:
    login("alice")
    pair_adapter().push_to_hub()
    for status, error in (
        (401, HubAccessError),
        (403, HubAccessError),
        (429, HubUnavailableError),
        (500, HubUnavailableError),
    ):
        hub.fail(status, path_contains="/api/models?", times=None)
        with pytest.raises(error, match="search the Hub"):
            find_adapters()
        hub.clear_faults()
    hub.fail(500, path_contains="/api/models?", times=1)
    assert len(find_adapters()) == 1  # tried again
    hub.drop(path_contains="/api/models?", times=None)
    with pytest.raises(HubUnavailableError):
        find_adapters()


# The card's own snippets


@pytest.mark.parametrize("sources", [[SOURCE], [SOURCE, ModelSpec("org/phi", 8)]])
def test_the_cards_snippets_run_as_they_stand(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, sources: list[ModelSpec]
) -> None:
    login("alice")
    commit = pair_adapter(sources=sources).push_to_hub()
    text = ModelCard.load(commit.repo_url.repo_id).text
    login("bob")
    hub.empty_cache()
    snippets = re.findall(r"```(python|bash)\n(.*?)```", text, re.S)
    python = "\n".join(code for language, code in snippets if language == "python")
    assert python.count("from_pretrained") == 1 and python.count("from_pair") == 1
    script = f"{python}\nassert target_bank['user-1'].shape == (1, 24), target_bank\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = next(code for language, code in snippets if language == "bash" and "migrate" in code).split()
    assert command[0] == "puma-hub"
    run = [sys.executable, "-m", "puma_hub.cli.main", *command[1:]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PromptBank.load_from_disk(tmp_path / "target-bank").model.model_id == "org/gemma-2b"
