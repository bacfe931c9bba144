"""The text for registering the library on the Hub says what cards and code do, and its code runs as it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from puma_hub import PromptBank, PumaAdapter, find_adapters
from puma_hub.adapter.card import adapter_card
from puma_hub.bank.card import bank_card
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_hub_adapters import SOURCE, pair_adapter
from tests.test_hub_docs import DOCS, run, snippets

PAGE = "registration.md"
NAME = "my-lab/smollm2-to-gemma"


def proposed() -> list[str]:
    """The blocks of TypeScript."""
    return re.findall(r"```ts\n(.*?)```", (DOCS / PAGE).read_text(encoding="utf-8"), re.S)


def test_the_code_example_is_the_proposed_one_and_runs(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, shown),) = snippets(PAGE, "registration")
    texts = re.findall(r"\t`(.*?)`,\n", proposed()[1], re.S)
    assert texts == ["pip install puma_hub", shown.rstrip("\n").replace(NAME, "${model.id}")]
    pair_adapter(4).save_pretrained(tmp_path / "adapter")
    hub.create_repository(NAME, files={file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()})
    bank = make_bank(5).with_provenance(model=SOURCE)
    bank.save_pretrained(tmp_path / "source-bank")
    monkeypatch.chdir(tmp_path)
    run(PAGE, "registration")
    target = PromptBank.from_pretrained(tmp_path / "target-bank")
    assert (target.prompts == pair_adapter(4).migrate(bank).prompts).all()


def test_the_entries_are_those_of_the_cards() -> None:
    model, snippet, dataset = proposed()
    (key,), (also,) = (re.findall(r'^\t"(.+)": \{', entry, re.M) for entry in (model, dataset))
    data = adapter_card(pair_adapter(), NAME).data
    assert key == also == data.library_name == data.tags[0] and key in bank_card(make_bank(3), NAME).data.tags
    (function,) = re.findall(r"snippets: snippets\.(\w+),", model)
    assert f"export const {function} = (model: ModelData): string[] => [" in snippet
    assert "filter: false" in model and "countDownloads" not in model


def test_a_load_is_counted_by_the_hubs_default_file_and_a_search_is_not(
    hub: HubServer, login: Callable[..., None]
) -> None:
    login("alice")
    pair_adapter().push_to_hub("alice/adapter")
    counted = {"config.json", "config.yaml", "hyperparams.yaml", "params.json", "meta.yaml"}
    assert counted & set(hub.repository("alice/adapter").files()) == {"config.json"}

    def asked() -> set[str | None]:
        return {request.filename for request in hub.requests if request.filename} & counted

    for _ in range(2):  # downloaded, and from the cache
        hub.clear_requests()
        PumaAdapter.from_pretrained("alice/adapter")
        assert asked() == {"config.json"}
    hub.clear_requests()
    assert len(find_adapters(SOURCE)) == 1 and asked() == set()
