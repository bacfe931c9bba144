"""The test Hub: what it says of repositories, how it finds them, which cards it refuses."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi, HfFileSystem, ModelCard
from huggingface_hub.errors import BadRequestError, RemoteEntryNotFoundError

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


def test_model_info_comes_from_the_card(api: HfApi, hub) -> None:
    card = CARD.format(name="thing", value=0.9).encode()
    files = {"README.md": card, "config.json": b'{"model_type": "thing"}', "weights/model.safetensors": bytes(1000)}
    hub.create_repository("alice/thing", files=files)
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
    assert sizes["weights/model.safetensors"] == (1000, True)
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
        ("license: no-such-license", "license"),
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
