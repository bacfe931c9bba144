"""Pipelines from the Hub, as another user with an empty cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, pipeline

from puma_hub import ModelSpec, PersonalizedLM, PromptBank
from puma_hub.errors import CheckpointError, HubNotFoundError
from tests.conftest import make_bank, make_model
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter

ROWS = [{"user_id": f"user-{number}", "item_text": f"Toy Story {number}"} for number in (3, 1)]


@pytest.fixture
def published(
    hub: HubServer, login: Callable[..., None], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> tuple[PromptBank, PromptBank]:
    """org/llama, org/gemma, alice's bank of the one and her adapter to the other; returns the bank before and after."""
    specs = []
    for family, name in (("llama", "org/llama"), ("gemma3", "org/gemma")):
        model = make_model(family)
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        hub.create_repository(name, files={f.name: f.read_bytes() for f in (tmp_path / family).iterdir()})
        specs.append(ModelSpec.from_model(model, name))
    bank = make_bank(template="rating").with_provenance(model=specs[0])
    adapter = make_adapter(sources=specs[:1], target=specs[1], template="rating")
    login("alice")
    bank.push_to_hub("alice/bank", private=False)
    adapter.push_to_hub("alice/adapter")
    login("bob")
    hub.empty_cache()
    hub.clear_requests()
    return bank, adapter.migrate(bank)


def test_migration_by_repository(hub: HubServer, published: tuple[PromptBank, PromptBank]) -> None:
    bank, migrated = published
    pipe = pipeline("prompt-migration", model="alice/adapter")
    assert (pipe(PromptBank.from_pretrained("alice/bank")).prompts == migrated.prompts).all()
    assert (pipe(list(bank.prompts), batch_size=2) == migrated.prompts).all()
    assert hub.opened("alice/adapter") == {"config.json", "model.safetensors"}
    with pytest.raises(CheckpointError, match="type 'llama'"):
        pipeline("prompt-migration", model="org/llama")
    with pytest.raises(OSError, match="alice/nothing"):  # transformers' own, before a pipeline is there
        pipeline("prompt-migration", model="alice/nothing")


def test_scores_and_texts_by_repository(hub: HubServer, published: tuple[PromptBank, PromptBank]) -> None:
    _, migrated = published
    parts = {"model": "org/gemma", "bank": "alice/bank", "adapter": "alice/adapter"}
    pipe = pipeline("personalized-scoring", **parts)
    assert (pipe.bank.prompts == migrated.prompts).all()  # bit by bit
    assert pipe.spec.model_id == "org/gemma" and pipe.lm.spec == pipe.spec
    lm = PersonalizedLM.from_pretrained("org/gemma", template="rating")
    prompts = torch.stack([torch.tensor(migrated[row["user_id"]]) for row in ROWS])
    logits = lm.logits(prompts, ROWS)
    assert migrated.head is not None
    results = pipe(ROWS)
    assert len(results) == len(ROWS)
    for result, row, score in zip(results, logits, migrated.head(logits)):
        assert result["score"] == pytest.approx(float(score), abs=1e-5)
        assert list(result["distribution"].values()) == pytest.approx(row.softmax(-1).tolist(), abs=1e-5)
    writer = pipeline("personalized-text-generation", **parts, max_new_tokens=4, do_sample=False)
    text = "Movie: <user> rates"
    (written,) = writer({"user_id": "user-3", "text": text}, return_full_text=False)
    assert written["generated_text"] == lm.generate(text, prompts[0], max_new_tokens=4, do_sample=False)
    for wrong in ({"bank": "alice/nothing"}, {"adapter": "alice/nothing"}):
        with pytest.raises(HubNotFoundError, match="alice/nothing"):
            pipeline("personalized-scoring", **{**parts, **wrong})


def test_a_token_by_hand_opens_all_parts(
    hub: HubServer, login: Callable[..., None], published: tuple[PromptBank, PromptBank]
) -> None:
    login("alice")
    make_bank().with_provenance(model=published[0].model).push_to_hub("alice/secret", private=True)
    login(None)
    hub.empty_cache()
    token = HubServer.token("alice")
    pipe = pipeline("personalized-scoring", model="org/llama", bank="alice/secret", token=token)
    assert len(pipe(ROWS)) == 2 and token not in repr(pipe)
    hub.empty_cache()
    with pytest.raises(HubNotFoundError, match="alice/secret"):
        pipeline("personalized-scoring", model="org/llama", bank="alice/secret")
