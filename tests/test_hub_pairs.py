"""Finding adapters on the Hub, and loading the one of a pair."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from puma_hub import ModelSpec, PromptBank, PumaAdapter, find_adapters, pair_repo_id
from puma_hub.adapter.card import adapter_card
from puma_hub.errors import (
    ConfigurationError,
    HubAccessError,
    HubNotFoundError,
    HubUnavailableError,
    MismatchError,
)
from puma_hub.registry import listing
from puma_hub.registry.listing import described
from puma_hub.registry.published import read_listing
from tests.hub_server import HubServer
from tests.test_hub_adapters import NAME, SOURCE, TARGET, facts, folder_of, pair_adapter, same

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


def test_wrong_and_hostile_cards_hide_nothing(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    commit = pair_adapter().push_to_hub()
    tags = ModelCard(hub.repository(commit.repo_url.repo_id).files()["README.md"].decode()).data.tags
    block = {"sources": [SOURCE.to_dict()], "target": TARGET.to_dict()}
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    headers: dict[str, Any] = {
        "no-block": {},
        "text": {"puma_hub": "x"},
        "no-target": {"puma_hub": {"sources": [SOURCE.to_dict()]}},
        "sizes": {"puma_hub": {"sources": [{"model_id": "a", "hidden_size": "x"}], "target": TARGET.to_dict()}},
        "other-models": {"puma_hub": {"sources": [{"model_id": "a", "hidden_size": 1}], "target": TARGET.to_dict()}},
        "breaks-the-client": {"puma_hub": {}, "ignore_metadata_errors": True},
        "index-of-text": {"puma_hub": block, "model-index": "x"},
        "index-without-parts": {"puma_hub": block, "model-index": [{"results": [{"metrics": 5}]}, 7]},
        "language": {"puma_hub": {}, "language": {"a": [1]}, "self": 1},
        "length-inf": {"puma_hub": {**block, "prompt_length": float("inf")}},
        "length-nan": {"puma_hub": {**block, "prompt_length": float("nan")}},
        "length-huge": {"puma_hub": {**block, "prompt_length": 10**30}},
        "length-negative": {"puma_hub": {**block, "prompt_length": -1}},
        "size-huge": {"puma_hub": {**block, "sources": [{"model_id": "org/llama-1b", "hidden_size": 10**30}]}},
        "sources-of-text": {"puma_hub": {**block, "sources": ["org/llama-1b"]}},
        "many-sources": {"puma_hub": {**block, "sources": [SOURCE.to_dict()] * 70}},
        "deep": {"puma_hub": {**block, "sources": deep}},
        "escapes": {"puma_hub": {**block, "target": {**TARGET.to_dict(), "model_id": "org/\x1b[2Jgemma"}}},
    }
    for name, header in headers.items():
        card = f"---\n{yaml.safe_dump({'library_name': 'puma-hub', 'tags': tags, **header})}---\n"
        hub.create_repository(f"bob/{name}", files={"README.md": card.encode()})
    caplog.set_level(logging.DEBUG, "puma_hub")
    found = find_adapters(SOURCE, TARGET)
    assert {adapter.repo_id for adapter in found} == {f"alice/{NAME}", "bob/index-of-text", "bob/index-without-parts"}
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and f"{len(headers) - 3} of {len(headers) + 1} entries" in warned[0]
    assert "\x1b" not in caplog.text
    assert PumaAdapter.from_pair(SOURCE, TARGET, namespace="alice").published.repo_id == f"alice/{NAME}"


def test_a_page_that_cannot_be_parsed_is_read_card_by_card(
    hub: HubServer, login: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    for name in ("good", "bad"):
        pair_adapter().push_to_hub(f"alice/{name}")

    def parsed(real: Callable[..., Any]) -> Callable[..., Any]:
        def parse(*arguments: Any) -> Any:
            if "cardData" in arguments[0] or "bad" in arguments[0]:
                raise ValueError("Exceeds the limit (4300 digits) for integer string conversion")
            return real(*arguments)

        return parse

    for name in ("_pages", "described"):
        monkeypatch.setattr(listing, name, parsed(getattr(listing, name)))
    assert [adapter.repo_id for adapter in find_adapters()] == ["alice/good"]
    assert "1 of 2 entries" in caplog.text


def test_figures_beside_the_card_data_and_strange_ones(
    hub: HubServer, login: Callable[..., None], tmp_path: Path
) -> None:
    login("alice")
    folder_of(tmp_path, pair_adapter(), facts()).push_to_hub("alice/adapter")
    entry = described("alice/adapter")
    assert read_listing(entry).loss == pytest.approx(0.97 / 0.95 - 1)  # type: ignore[union-attr]
    entry["model-index"] = entry["cardData"].pop("model-index")
    assert read_listing(entry).loss == pytest.approx(0.97 / 0.95 - 1)  # type: ignore[union-attr]
    for value, loss in (("x", None), (True, None), (float("inf"), None), (10**400, None), (-1, None), (0.5, 0.0)):
        for result in entry["model-index"][0]["results"]:
            for metric in result["metrics"]:
                if metric["args"] == {"predictions": "migrated"}:
                    metric["value"] = value
        adapter = read_listing(entry)
        assert adapter is not None and adapter.loss == loss


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
