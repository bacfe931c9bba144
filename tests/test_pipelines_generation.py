"""personalized-text-generation: batches against one-by-one ``model.generate``, chats, cold starts, every error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, pipeline

from puma_hub import ModelSpec, PersonalizedLM
from puma_hub.errors import (
    BankError,
    ConfigurationError,
    InteractionsError,
    MismatchError,
    TemplateError,
    UnknownUserError,
    UnsupportedModelError,
)
from tests.conftest import CHAT_TEMPLATE, make_bank, make_model, make_tokenizer
from tests.test_adapter import make_adapter

TASK = "personalized-text-generation"
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
INPUTS = [
    {"user_id": "user-1", "text": "Movie: Toy Story (1995)\nReview by <user>:"},
    {"user_id": "user-2", "text": "<user>"},
    {"user_id": "user-3", "text": "A rather long title about nothing at all (1999), Drama. Would <user> like it?"},
    {"user_id": "user-1", "text": "Movie: Heat"},
]


def alone(
    family: str, tokenizer: PreTrainedTokenizerFast, before: str, prompt: Any, after: str, **options: Any
) -> list[str]:
    """``model.generate`` of one unpadded text through an untouched model; one string for each sequence."""
    model: Any = make_model(family)
    embed = model.get_input_embeddings()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
    parts = [embed(torch.tensor(part, dtype=torch.long)) for part in ids]
    whole = torch.cat([parts[0], torch.tensor(np.array(prompt)), parts[1]])[None]
    mask = torch.ones(whole.shape[:2], dtype=torch.long)
    sequences = model.generate(inputs_embeds=whole, attention_mask=mask, **{**GREEDY, **options})
    return [tokenizer.decode(sequence, skip_special_tokens=True) for sequence in sequences]


@pytest.mark.parametrize("family", ["llama", "gemma3", "stablelm", "phi3"])
def test_a_batch_writes_what_each_text_alone_would(
    saved_lm: Callable[..., str], tokenizer: PreTrainedTokenizerFast, family: str
) -> None:
    bank = make_bank(family=family, length=2)
    pipe = pipeline(TASK, model=saved_lm(family), bank=bank, device="cpu", **GREEDY)
    expected = []
    for item in INPUTS:
        slotted = item["text"] if "<user>" in item["text"] else "<user>" + item["text"]  # in front
        before, after = slotted.split("<user>")
        expected.append(item["text"] + alone(family, tokenizer, before, bank[item["user_id"]], after)[0])
    assert len(set(expected)) == len(expected)
    for batch_size in (None, 2, 4):
        written = pipe(INPUTS, batch_size=batch_size)
        assert written == [[{"generated_text": text}] for text in expected]
    assert [pipe(item) for item in INPUTS] == written
    assert pipe(datasets.Dataset.from_list(INPUTS)) == written
    assert list(pipe((item for item in INPUTS), batch_size=3)) == written and pipe([]) == []


def test_texts_and_users_apart(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, bank = make_lm(), make_bank(family="llama")
    pipe = pipeline(TASK, model=lm, bank=bank)
    text = "Movie: <user> rates"
    (whole,) = pipe(text, user_id="user-3", **GREEDY)
    (new,) = pipe(text, user_id="user-3", return_full_text=False, **GREEDY)
    assert new["generated_text"] == lm.generate(text, torch.tensor(bank["user-3"]), **GREEDY)
    assert whole["generated_text"] == text + new["generated_text"]
    for prompt in (bank["user-3"], torch.tensor(bank["user-3"])):
        assert pipe(text, prompt=prompt, **GREEDY) == [whole]
        assert pipeline(TASK, model=lm)({"text": text, "prompt": prompt}, **GREEDY) == [whole]
    own = {"text": text, "user_id": "user-3"}
    assert pipe([text, own, "<user>"], user_id="user-5", **GREEDY)[1] == [whole]
    texts, prompts = [text, "<user>: Drama"], torch.tensor(np.array(bank.prompts[:2]))
    assert lm.generate(texts, prompts, **GREEDY) == [lm.generate(t, p, **GREEDY) for t, p in zip(texts, prompts)]
    assert len(lm.generate(texts, list(prompts), num_beams=2, num_return_sequences=2, **GREEDY)) == 4
    assert lm.generate([], torch.zeros(0, 1, 32)) == []


def test_generation_arguments(saved_lm: Callable[..., str], tokenizer: PreTrainedTokenizerFast) -> None:
    bank = make_bank(family="llama")
    pipe = pipeline(TASK, model=saved_lm("llama"), bank=bank, max_new_tokens=5, unknown_users="mean")
    beams = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    results = pipe(INPUTS[:1] * 2, batch_size=2, return_full_text=False, **beams)
    before, after = INPUTS[0]["text"].split("<user>")
    expected = alone("llama", tokenizer, before, bank["user-1"], after, max_new_tokens=5, **beams)
    assert [[one["generated_text"] for one in result] for result in results] == [expected, expected]
    sampled = {"do_sample": True, "temperature": 5.0, "num_return_sequences": 8, "return_full_text": False}
    torch.manual_seed(0)
    first = pipe(INPUTS[0], **sampled)
    torch.manual_seed(0)
    assert pipe(INPUTS[0], **sampled) == first and len({one["generated_text"] for one in first}) > 2
    config = pipe.model.generation_config.__class__(max_new_tokens=2, eos_token_id=1, pad_token_id=1)
    short = pipeline(TASK, model=pipe.model, tokenizer=tokenizer, bank=bank)(
        INPUTS[0], generation_config=config, return_full_text=False
    )[0]
    assert len(tokenizer(short["generated_text"])["input_ids"]) <= 2
    kept = pipe(INPUTS[:2], batch_size=2, return_dict_in_generate=True, output_scores=True, do_sample=False)
    assert kept == pipe(INPUTS[:2], batch_size=2, do_sample=False)


def chats() -> list[list[dict[str, str]]]:
    return [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " I am <user>. What now? "}],
        [{"role": "user", "content": "Movie?"}],
        [{"role": "user", "content": "Name one, <user>"}, {"role": "assistant", "content": "Toy"}],
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_chats(family: str) -> None:
    tokenizer, bank = make_tokenizer(), make_bank(family=family)
    tokenizer.chat_template = CHAT_TEMPLATE
    pipe = pipeline(TASK, model=make_model(family), tokenizer=tokenizer, bank=bank, user_id="user-4", **GREEDY)
    rendered = [
        ("<s><|system|>Be brief.\n<|user|>I am ", ". What now?\n<|assistant|>"),
        ("<s><|user|>", "Movie?\n<|assistant|>"),
        ("<s><|user|>Name one, ", "\n<|assistant|>Toy"),
    ]
    new = [alone(family, tokenizer, before, bank["user-4"], after)[0] for before, after in rendered]
    expected = [
        [*chats()[0], {"role": "assistant", "content": new[0]}],
        [*chats()[1], {"role": "assistant", "content": new[1]}],
        [chats()[2][0], {"role": "assistant", "content": "Toy" + new[2]}],
    ]
    written = [[{"generated_text": messages}] for messages in expected]
    assert pipe(chats(), batch_size=3) == written and pipe(chats()) == written
    assert [pipe(chat) for chat in chats()] == written
    rows = [{"messages": chat, "user_id": "user-4"} for chat in chats()]
    assert pipe(rows, batch_size=2) == written and pipe(datasets.Dataset.from_list(rows)) == written
    assert pipe(chats(), return_full_text=False) == [[{"generated_text": text}] for text in new]
    (other,) = pipe({"messages": chats()[0], "user_id": "user-5"}, return_full_text=False)
    assert other["generated_text"] == alone(family, tokenizer, rendered[0][0], bank["user-5"], rendered[0][1])[0]


def test_unknown_users(make_lm: Callable[..., PersonalizedLM]) -> None:
    bank = make_bank(family="llama")
    pipe = pipeline(TASK, model=make_lm(), bank=bank, **GREEDY)
    texts = [{"user_id": "user-1", "text": "Hi"}, {"user_id": "nobody-7", "text": "Hi"}]
    with pytest.raises(UnknownUserError, match="input 1: the user is not among the 8 users") as caught:
        pipe(texts)
    assert "nobody" not in str(caught.value)
    known, unknown = pipe(texts, unknown_users="mean", batch_size=2)
    assert known[0]["cold_start"] is False and unknown[0]["cold_start"] is True
    mean = pipe("Hi", prompt=bank.prompts.mean(axis=0, dtype=np.float64))
    assert unknown[0]["generated_text"] == mean[0]["generated_text"]


def test_a_bank_of_another_llm_is_migrated(saved_lm: Callable[..., str]) -> None:
    source, target = ModelSpec.from_model(make_model("llama"), "a"), ModelSpec.from_model(make_model("gemma3"), "b")
    bank = make_bank().with_provenance(model=source)
    adapter = make_adapter(sources=[source], target=target)
    pipe = pipeline(TASK, model=saved_lm("gemma3"), bank=bank, adapter=adapter, **GREEDY)
    migrated = adapter.migrate(bank)
    assert (pipe.bank.prompts == migrated.prompts).all()
    assert pipe(INPUTS[0]) == pipe(INPUTS[0]["text"], prompt=migrated["user-1"])
    with pytest.raises(MismatchError, match="give adapter="):
        pipeline(TASK, model=saved_lm("gemma3"), bank=bank)


CHAT = [{"role": "user", "content": "Hi"}]
BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("<user> and <user>", {"user_id": "user-1"}, TemplateError, "exactly once, found 2 times"),
    ("Hi", {}, InteractionsError, "found neither"),
    ({"text": "Hi", "user_id": "user-1", "prompt": np.ones((1, 32))}, {}, InteractionsError, "found both"),
    ({"user_id": "user-1"}, {}, InteractionsError, "needs text, a string, or messages"),
    ({"text": "Hi", "messages": CHAT, "user_id": "user-1"}, {}, InteractionsError, "needs text, a string, or messages"),
    ({"messages": "Hi", "user_id": "user-1"}, {}, InteractionsError, "found messages, user_id with str"),
    ([7], {"user_id": "user-1"}, InteractionsError, "input 0: .*with int"),
    ("Hi", {"prompt": np.ones((1, 8))}, MismatchError, r"must be \(1, 32\) here"),
    ("Hi", {"prompt": np.full((1, 32), np.nan)}, BankError, "NaN"),
    ("long " * 300, {"user_id": "user-1"}, TemplateError, "the model has 256"),
    ([{"role": "user", "content": "<user><user>"}], {"user_id": "user-1"}, TemplateError, "at most once, found 2"),
    ([{"role": "user", "content": None}], {"user_id": "user-1"}, TemplateError, "content that is a string"),
    ([{"role": "tool", "content": "Hi"}], {"user_id": "user-1"}, TemplateError, "cannot render.*no tools"),
    (
        [*CHAT, {"role": "hidden", "content": "<user>"}],
        {"user_id": "user-1"},
        TemplateError,
        "0 times; put <user> into",
    ),
    ("Hi", {"user_id": "user-1", "unknown_users": "skip"}, ConfigurationError, "one of error, mean"),
]


@pytest.mark.parametrize(("inputs", "options", "error", "message"), BAD)
def test_errors(inputs: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{% if m.role != 'hidden' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    pipe = pipeline(TASK, model=make_model("llama"), tokenizer=tokenizer, bank=make_bank(family="llama"), **GREEDY)
    with pytest.raises(error, match=message) as caught:
        pipe(inputs, **options)
    assert "user-1" not in str(caught.value)


def test_models_and_tokenizers_that_cannot(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    class NoEmbeddings(LlamaForCausalLM):
        def forward(self, input_ids: torch.Tensor) -> Any:  # type: ignore[override]
            return super().forward(input_ids)

    with pytest.raises(UnsupportedModelError, match="does not accept inputs_embeds"):
        pipeline(TASK, model=NoEmbeddings(make_model("llama").config), tokenizer=tokenizer)
    with pytest.raises(TemplateError, match="cannot render these messages"):  # it has no chat template
        pipeline(TASK, model=make_model("llama"), tokenizer=tokenizer, bank=make_bank(family="llama"))(
            CHAT, user_id="user-1"
        )
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline(TASK, model=make_model("llama"), tokenizer=str(tmp_path), bank=make_bank(family="llama"), **GREEDY)
    assert pipe(INPUTS[0])[0]["generated_text"].startswith("Movie")


def test_a_text_too_long_names_the_input(tokenizer: PreTrainedTokenizerFast) -> None:
    pipe = pipeline(
        "personalized-text-generation", model=make_model("llama"), tokenizer=tokenizer, bank=make_bank(family="llama")
    )
    inputs = [{"text": "Toy", "user_id": "user-1"} for _ in range(5)]
    inputs[3] = {"text": "long " * 300, "user_id": "user-1"}
    for batch_size in (1, 2, 8):
        with pytest.raises(TemplateError, match=r"^input 3: a text needs 3\d\d positions"):
            pipe(inputs, batch_size=batch_size, max_new_tokens=1)
