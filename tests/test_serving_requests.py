"""Requests for serving engines: what they hold, against plain forward passes of transformers."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from puma_hub import ModelSpec, OrdinalTask, PersonalizedLM, PromptBank, RatingTask
from puma_hub.bank import KeyedStore
from puma_hub.errors import (
    ConfigurationError,
    InteractionsError,
    MismatchError,
    ServingError,
    StorageError,
    TemplateError,
    UnknownUserError,
)
from puma_hub.scorer.embeddings_only import load_embeddings_only
from puma_hub.serving import PromptRequests
from puma_hub.serving.description import describe, write_description
from puma_hub.tasks import RatingHead
from tests.conftest import CHAT_TEMPLATE, FAMILIES, make_bank, make_model
from tests.hub_server import HubServer

Save = Callable[..., str]
ROWS = [
    {"user_id": "user-1", "item_text": "Toy Story (1995), Animation"},
    {"user_id": "user-4", "item_text": "Toy Story (1995), Animation"},
    {"user_id": "user-1", "item_text": "A rather long title about nothing at all </s> (1999)"},
]
TEMPLATES = ("rating", "<user>A film: <item>\nRating: ", "<item>\nRating:<user>")


def bank_of(folder: str, length: int = 2, head: RatingHead | None = None, **provenance: Any) -> PromptBank:
    spec = ModelSpec.from_model(AutoModelForCausalLM.from_pretrained(folder), "tiny")
    prompts = np.random.default_rng(1).normal(size=(8, length, 32)).astype(np.float32)
    return PromptBank.from_arrays([f"user-{i}" for i in range(8)], prompts, spec, head=head, **provenance)


@torch.no_grad()
def plain_logprobs(folder: str, embeds: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model(inputs_embeds=embeds[None]).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_forward_of_a_request_gives_the_scores_of_the_pipeline(
    family: str, saved_lm: Save, head: RatingHead
) -> None:
    folder = saved_lm(family)
    for template in TEMPLATES:
        bank = bank_of(folder, head=head, template=template)
        requests = PromptRequests(bank, folder)
        expected = pipeline("personalized-scoring", model=folder, bank=bank)(ROWS)
        for row, wanted in zip(ROWS, expected):
            logprobs = plain_logprobs(folder, requests.vllm(row["user_id"], row)["prompt_embeds"])
            found = requests.scores({token: float(logprobs[token]) for token in requests.answer_ids})
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)
            assert found["distribution"] == pytest.approx(wanted["distribution"], abs=1e-5)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_all_forms_hold_the_same_embeddings(family: str, template: str, saved_lm: Save) -> None:
    folder = saved_lm(family)
    bank = bank_of(folder, template=template)
    requests = PromptRequests(bank, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding = model.get_input_embeddings()
    for row in ROWS:
        user = row["user_id"]
        pure = requests.vllm(user, row)["prompt_embeds"]
        mixed = requests.vllm_mixed(user, row)
        ids, is_text = mixed["prompt_token_ids"], torch.tensor(mixed["prompt_is_token_ids"])
        assert len(ids) == len(pure) and int((~is_text).sum()) == 2
        assert all(isinstance(one, bool) for one in mixed["prompt_is_token_ids"])  # vLLM hangs on anything else
        assert torch.equal(mixed["prompt_embeds"][~is_text], torch.tensor(bank[user]))
        assert not mixed["prompt_embeds"][is_text].any()
        joined = torch.where(is_text[:, None], embedding(torch.tensor(ids)), mixed["prompt_embeds"])
        assert torch.equal(joined, pure)

        body = requests.vllm_http(user, row)
        sent = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        assert torch.equal(sent, pure) and body["logprob_token_ids"] == requests.answer_ids
        json.dumps(body)

        listed = requests.sglang(user, row)
        assert np.array_equal(np.asarray(listed["input_embeds"], np.float32), pure.detach().numpy())
        assert listed["token_ids_logprob"] == requests.answer_ids

        score = requests.sglang_score(user, row)
        (item,), filler = score["items"], score["embed_override_token_id"]
        whole = torch.tensor(score["query"] + item)
        overrides = score["query_embed_overrides"] or score["item_embed_overrides"][0]
        places = (whole == filler).nonzero()[:, 0]
        assert item and len(places) == len(overrides) == 2
        # SGLang looks for the filler in query and item apart.
        in_query = score["query"].count(filler)
        assert in_query == (2 if score["query_embed_overrides"] else 0)
        replaced = embedding(whole).index_put((places,), torch.tensor(overrides))
        assert torch.equal(replaced, pure)


def test_only_the_input_embeddings_are_in_memory(saved_lm: Save) -> None:
    for family in ("llama", "gemma3", "granite"):
        folder = saved_lm(family)
        model, _ = load_embeddings_only(folder)
        whole = AutoModelForCausalLM.from_pretrained(folder)
        real = {name for name, parameter in model.named_parameters() if not parameter.is_meta}
        assert {name for name in real if "embed_tokens" not in name} <= {"lm_head.weight"}
        assert ModelSpec.from_model(model, "a") == ModelSpec.from_model(whole, "a")
        ids = torch.arange(20)
        assert torch.equal(model.get_input_embeddings()(ids), whole.get_input_embeddings()(ids))
        half, _ = load_embeddings_only(folder, dtype="bfloat16")
        expected = whole.to(torch.bfloat16).get_input_embeddings()(ids)
        assert torch.equal(half.get_input_embeddings()(ids), expected)


def test_checkpoints_as_people_have_them(saved_lm: Save, tmp_path: Path) -> None:
    """In several files, with other beginnings of names, with a second matrix whose name ends alike."""
    folder = Path(saved_lm("llama"))
    expected = load_file(folder / "model.safetensors")
    wanted = expected["model.embed_tokens.weight"]

    def found() -> torch.Tensor:
        return load_embeddings_only(str(folder))[0].get_input_embeddings().weight

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    holding = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(holding.values())) > 1
    for other in set(holding.values()) - {holding["model.embed_tokens.weight"]}:
        (folder / other).unlink()  # only the file with the embeddings is opened
    assert torch.equal(found(), wanted)
    (folder / "model.safetensors.index.json").unlink()
    for file in folder.glob("*.safetensors"):
        file.unlink()

    bare = {name.removeprefix("model."): tensor for name, tensor in expected.items()}
    save_file(bare, folder / "model.safetensors")
    assert torch.equal(found(), wanted)
    wrapped = {f"language_model.{name}": tensor for name, tensor in expected.items()}
    save_file({**wrapped, "vision.embed_tokens.weight": torch.zeros(3, 4)}, folder / "model.safetensors")
    assert torch.equal(found(), wanted)

    save_file({"model.embed_tokens.weight": wanted.to(torch.int32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="quantised"):
        found()
    save_file({"something": wanted}, folder / "model.safetensors")
    with pytest.raises(StorageError, match=r"no weights named model.embed_tokens.weight"):
        found()
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(StorageError, match="cannot read"):
        found()
    (folder / "model.safetensors").unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    with pytest.raises(StorageError, match="only safetensors"):
        found()
    with pytest.raises(StorageError, match=r"config\.json missing"):
        load_embeddings_only(str(tmp_path))
    with pytest.raises(StorageError):
        load_embeddings_only(str(tmp_path / "nothing here"))


def test_a_model_on_the_hub_is_read_by_its_embeddings(
    hub: HubServer, login: Callable[..., None], saved_lm: Save, tmp_path: Path
) -> None:
    folder = Path(saved_lm("llama"))
    bank = bank_of(str(folder), template="rating")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    hub.create_repository("org/llama", files={file.name: file.read_bytes() for file in folder.iterdir()})
    login("bob")
    hub.clear_requests()
    requests = PromptRequests(bank, "org/llama")
    opened = {name for name in hub.opened("org/llama") if name.endswith(".safetensors")}
    holding = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert opened == {holding["model.embed_tokens.weight"]}
    lm = PersonalizedLM.from_pretrained(str(folder), model_id="org/llama")
    whole = PromptRequests(bank, lm).vllm("user-1", ROWS[0])["prompt_embeds"]
    assert torch.equal(requests.vllm("user-1", ROWS[0])["prompt_embeds"], whole)
    assert requests.vllm_http("user-1", ROWS[0])["model"] == "org/llama"


def test_scores_from_every_form_of_an_engines_answer(saved_lm: Save, head: RatingHead) -> None:
    requests = PromptRequests(bank_of(folder := saved_lm(), head=head), folder)
    ids = requests.answer_ids
    values = [-3.0, -0.2, -7.5, -1.0, -20.0]
    logits = torch.tensor([values])
    distribution = dict(zip(map(str, range(1, 6)), torch.tensor(values).softmax(-1).tolist()))
    by_id = dict(zip(ids, values)) | {7: -0.1}
    tokens = {f"token_id:{token}": value for token, value in by_id.items()}
    forms: list[Any] = [
        values,
        by_id,
        {token: SimpleNamespace(logprob=value) for token, value in by_id.items()},
        [{token: SimpleNamespace(logprob=value) for token, value in by_id.items()}],
        {"choices": [{"logprobs": {"top_logprobs": [tokens]}}]},
        {"logprobs": {"top_logprobs": [tokens]}},
        {"meta_info": {"output_token_ids_logprobs": [[[value, token, None] for token, value in by_id.items()]]}},
        {"scores": [[math.exp(value) for value in values]]},
    ]
    for form in forms:
        found = requests.scores(form)
        assert found["distribution"] == pytest.approx(distribution, abs=1e-6)
        if not isinstance(form, dict) or "scores" not in form:
            assert found["score"] == pytest.approx(float(head(logits)), rel=1e-6)
    for bad, words in (
        ({ids[0]: -1.0}, "no log-probability for 4 of 5"),
        ([-1.0], "gave 1 log-probabilities for 5"),
        ([math.nan, *values[1:]], "not finite"),
        ([-math.inf, *values[1:]], "not finite"),
        ({"choices": []}, "holds no log-probabilities"),
        ({"choices": [{"logprobs": None}]}, "holds no log-probabilities"),
        ({"error": "x"}, "holds no log-probabilities"),
        ("text", "got str"),
        (None, "got NoneType"),
        ([], "got list"),
    ):
        with pytest.raises(ServingError, match=words):
            requests.scores(bad)


def test_tasks_without_head_and_with_an_offset(saved_lm: Save) -> None:
    folder = saved_lm()
    values = [-3.0, -0.2, -7.5, -1.0, -2.0]
    mean = float(torch.tensor(values).softmax(-1) @ torch.arange(1.0, 6.0))
    ordinal = PromptRequests(bank_of(folder, task=OrdinalTask((1, 2, 3, 4, 5))), folder)
    assert ordinal.scores(values)["score"] == pytest.approx(mean, abs=1e-5)
    offset = PromptRequests(bank_of(folder, task=RatingTask(offset="bias")), folder)
    assert offset.scores(values, {"bias": 1.5})["score"] == pytest.approx(mean + 1.5, abs=1e-5)
    for row in (None, {}, {"bias": "1"}, {"bias": math.nan}):
        with pytest.raises(InteractionsError, match="'bias'"):
            offset.scores(values, row)
    assert describe(offset)["examples"]["scores"] == []


def test_a_keyed_store_is_as_good_as_the_bank(saved_lm: Save, head: RatingHead, tmp_path: Path) -> None:
    bank = bank_of(folder := saved_lm(), head=head, template="rating")
    bank.to_lmdb(tmp_path / "store")
    bank.save_pretrained(tmp_path / "bank")
    expected = PromptRequests(bank, folder)
    for prompts in (tmp_path / "store", str(tmp_path / "bank"), KeyedStore(tmp_path / "store")):
        requests = PromptRequests(prompts, folder)
        assert torch.equal(*(one.vllm("user-1", ROWS[0])["prompt_embeds"] for one in (requests, expected)))
        assert requests.scores([-1.0, -2.0, -3.0, -4.0, -5.0]) == expected.scores([-1.0, -2.0, -3.0, -4.0, -5.0])
        with pytest.raises(UnknownUserError):
            requests.vllm("nobody", ROWS[0])


def test_texts_and_chats(saved_lm: Save) -> None:
    folder = saved_lm("gemma3")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    bank = bank_of(folder)
    requests = PromptRequests(bank, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "Say to <user> something"}]
    for text, before, after in (
        ("Dear <user>, hello", "Dear ", ", hello"),
        ("hello", "", "hello"),
        (messages, "<s><|user|>Say to ", " something\n<|assistant|>"),
    ):
        body = requests.vllm_http_text("user-2", text, max_tokens=7, temperature=0.5)
        assert body["max_tokens"] == 7 and body["temperature"] == 0.5
        sent = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
        parts = [model.get_input_embeddings()(torch.tensor(part, dtype=torch.int64)) for part in ids]
        assert torch.equal(sent, torch.cat([parts[0], torch.tensor(bank["user-2"]), parts[1]]))

    chat = requests.vllm_chat("user-2", messages, max_tokens=3)
    first, part, last = chat["messages"][0]["content"]
    assert first == {"type": "text", "text": "Say to "} and last == {"type": "text", "text": " something"}
    sent = torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True)
    assert part["type"] == "prompt_embeds" and torch.equal(sent, torch.tensor(bank["user-2"]))
    assert messages == [{"role": "user", "content": "Say to <user> something"}] and chat["max_tokens"] == 3
    in_front = requests.vllm_chat("user-2", [{"role": "user", "content": "hello"}])["messages"][0]["content"]
    assert [one["type"] for one in in_front] == ["prompt_embeds", "text"]
    with pytest.raises(TemplateError, match="at most once"):
        requests.vllm_chat("user-2", [{"role": "user", "content": "<user><user>"}])
    with pytest.raises(TemplateError, match="exactly once"):
        requests.vllm_http_text("user-2", "<user> and <user>")


def test_what_does_not_belong_together_is_refused(saved_lm: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    folder, other = saved_lm("llama"), saved_lm("llama", 1)
    bank = bank_of(folder, template="rating")
    with pytest.raises(MismatchError, match="other weights"):
        PromptRequests(bank, other)
    with pytest.raises(MismatchError, match="template"):
        PromptRequests(bank, folder, "Rate <item> for <user>: ")
    with pytest.raises(MismatchError, match="task"):
        PromptRequests(bank_of(folder, task=RatingTask()), folder, task=OrdinalTask((1, 2, 3)))
    with pytest.raises(MismatchError, match="rating head is for 3 answers"):
        PromptRequests(bank, folder, head=RatingHead(3))
    with pytest.raises(ConfigurationError, match="two soft slots"):
        PromptRequests(bank_of(folder), folder, "rating-items")
    with pytest.raises(ConfigurationError, match="got int"):
        PromptRequests(3, folder)  # type: ignore[arg-type]
    lm = PersonalizedLM(make_model("llama"), tokenizer, model_id="tiny")
    with pytest.raises(ConfigurationError, match="its own template"):
        PromptRequests(bank, lm, "Rate <item> for <user>: ")
    requests = PromptRequests(bank, folder)
    with pytest.raises(UnknownUserError) as error:
        requests.vllm("somebody@example.org", ROWS[0])
    assert "somebody" not in str(error.value)
    with pytest.raises(InteractionsError, match="item_text"):
        requests.vllm("user-1", {})
    with pytest.raises(TemplateError, match="positions"):
        requests.vllm("user-1", {"item_text": "long " * 500})
    cut = PromptRequests(bank, folder, truncate_items=True)
    assert len(cut.vllm("user-1", {"item_text": "long " * 500})["prompt_embeds"]) == 256
    with pytest.raises(MismatchError, match="migrate"):
        PromptRequests(make_bank(size=16), folder)


@torch.no_grad()
def scored_elsewhere(folder: str, facts: dict[str, Any], text: str, prompt: torch.Tensor) -> float:
    """A score by transformers, its tokenizer and the contents of ``serving.json`` alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    matrix = model.get_input_embeddings().weight * facts["prompts"]["embedding_scale"]
    start = facts["text"]["before"].replace("<item>", text)
    before = facts["text"]["leading_ids"] + tokenizer(start, add_special_tokens=False)["input_ids"]
    embeds = torch.cat([matrix[before], prompt, matrix[facts["text"]["suffix_ids"]]])
    logits = model(inputs_embeds=embeds[None]).logits[0, -1, facts["answer_ids"]]
    state = logits - logits.mean()
    for number, layer in enumerate(facts["head"]["layers"]):
        state = torch.tensor(layer["weight"]) @ (state.relu() if number else state) + torch.tensor(layer["bias"])
    return float(state)


def test_serving_json_is_enough_for_another_implementation(saved_lm: Save, head: RatingHead, tmp_path: Path) -> None:
    for family in ("llama", "gemma3"):
        folder = saved_lm(family)
        bank = bank_of(folder, head=head, template="rating")
        requests = PromptRequests(bank, folder)
        write_description(requests, tmp_path / "serving.json")
        facts = json.loads((tmp_path / "serving.json").read_text())
        assert "user-1" not in (tmp_path / "serving.json").read_text()
        for row, expected in zip(ROWS[:2], pipeline("personalized-scoring", model=folder, bank=bank)(ROWS[:2])):
            found = scored_elsewhere(folder, facts, row["item_text"], torch.tensor(bank[row["user_id"]]))
            assert found == pytest.approx(expected["score"], abs=1e-4)
        assert facts["text"]["prefix_ids"] is None
        assert facts["model"]["fingerprint"] == bank.model.fingerprint
        assert facts["prompts"]["embedding_scale"] == pytest.approx(math.sqrt(32) if family == "gemma3" else 1.0)
        for one in facts["examples"]["scores"]:
            assert one["score"] == pytest.approx(float(head(torch.tensor([one["logits"]]))), abs=1e-5)
