"""Versions whose banks and adapters are on the Hub: their commits are pinned, and a bucket has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from puma_hub import ModelSpec, PumaAdapter, PumaConfig
from puma_hub.cli.main import main
from puma_hub.serving.prompts import open_prompts
from puma_hub.serving.rollout import DeploymentFile
from tests.conftest import make_bank
from tests.hub_server import HubServer


def test_names_on_the_hub_are_pinned(
    hub: HubServer,
    api: HfApi,
    login: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    login("alice")
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    bank = make_bank(5)
    other = ModelSpec("another", bank.model.hidden_size)
    first = bank.push_to_hub("alice/prompts").oid
    adapters = {
        name: PumaAdapter(PumaConfig(sources=[bank.model], target=target)).eval()
        for name, target in (("right", bank.model), ("wrong", other))
    }
    for name, adapter in adapters.items():
        adapter.push_to_hub(f"alice/{name}")
    commit = api.model_info("alice/right").sha

    def add(name: str, place: str, *more: str) -> int:
        return main(["rollout", "--add", name, "--model", "model", "--bank", place, *more])

    assert add("one", "alice/nothing") == 1 and "alice/nothing" in capsys.readouterr().err
    assert add("one", "alice/prompts", "--adapter", "alice/wrong") == 1
    assert "its prompts and its adapter's target" in capsys.readouterr().err and not Path("deployment.json").exists()
    assert add("one", "alice/prompts", "--adapter", "alice/right") == 0
    stable = DeploymentFile("deployment.json").read().stable
    assert (stable.bank_revision, stable.adapter_revision) == (first, commit)

    make_bank(3, seed=1).push_to_hub("alice/prompts")
    assert len(open_prompts(stable.bank, revision=stable.bank_revision)) == 5  # as when it was added
    assert add("two", "alice/prompts") == 0
    assert main(["rollout", "--retire"]) == 0
    assert add("two", "alice/prompts", "--bank-revision", first) == 0
    candidate = DeploymentFile("deployment.json").read().candidate
    assert candidate is not None and candidate.bank_revision == first

    bucket = "hf://buckets/alice/kept"
    bank.push_to_bucket(bucket)
    assert main(["rollout", "--retire"]) == 0
    assert add("three", bucket, "--bank-revision", "main") == 2 and "keeps no revisions" in capsys.readouterr().err
    assert add("three", bucket) == 0
    candidate = DeploymentFile("deployment.json").read().candidate
    assert candidate is not None and candidate.bank == bucket and candidate.bank_revision is None
    assert main(["rollout", "--retire", "--delete-bank"]) == 2 and "on the Hub" in capsys.readouterr().err
