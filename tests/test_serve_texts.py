"""``puma-hub serve``: texts and chats, whole and streamed, compared with plain generation; sampling, and stop texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_hub.serving.service.backend import Sampling
from puma_hub.serving.service.sampling import RowSampling
from puma_hub.serving.service.writing import Decoder, Stops
from tests.conftest import make_tokenizer
from tests.services import MODEL, Plain, Served, chat_lm, local, rated_bank

BANK = rated_bank()
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Movie?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with local(chat_lm(), BANK) as one:
        yield one


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(BANK)


def test_texts_are_continued_as_alone(served: Served, plain: Plain) -> None:
    prompts = ["Movie: Toy Story (1995)\nReview by <user>:", "<user>", "Movie: Heat"]
    expected = []
    for prompt in prompts:
        before, after = prompt.split("<user>") if "<user>" in prompt else ("", prompt)
        expected.append(plain.text("user-1", before, after, 6))
    assert len(set(expected)) == 3
    answer = served.text(prompt=prompts, max_tokens=6)
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [served.text(prompt=one, max_tokens=6)["choices"][0]["text"] for one in prompts] == expected
    lengths = [len(plain.tokenizer(prompt.replace("<user>", ""))["input_ids"]) + 2 for prompt in prompts]
    assert answer["usage"] == {
        "prompt_tokens": sum(lengths),
        "completion_tokens": 18,
        "total_tokens": sum(lengths) + 18,
    }
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert len(served.text(prompt="Heat")["choices"][0]["text"]) and served.text(prompt="Heat")["usage"][
        "completion_tokens"
    ] in range(1, 17)  # OpenAI's usual 16


def test_chats_are_rendered_and_continued(served: Served, plain: Plain) -> None:
    system = {"role": "system", "content": "Be brief."}
    parts = [{"type": "text", "text": " I am <user>."}, {"type": "text", "text": " What now? "}]
    answer = served.text(CHAT, messages=[system, {"role": "user", "content": parts}], max_completion_tokens=6)
    expected = plain.text("user-1", "<s><|system|>Be brief.\n<|user|>I am ", ". What now?\n<|assistant|>", 6)
    assert answer["choices"][0]["message"]["content"] == expected
    goes_on = [*HELLO, {"role": "assistant", "content": "Toy"}]
    answer = served.text(CHAT, messages=goes_on, max_tokens=6, model=MODEL)
    expected = plain.text("user-1", "<s><|user|>", "Movie?\n<|assistant|>Toy", 6)
    assert answer["choices"][0]["message"]["content"] == expected


def test_answers_have_the_shapes_of_openai(served: Served) -> None:
    chat = served.text(CHAT, messages=HELLO, max_tokens=2, n=2)
    head = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert set(chat) == head and chat["object"] == "chat.completion" and chat["id"].startswith("chatcmpl-")
    assert [choice["index"] for choice in chat["choices"]] == [0, 1] and chat["model"] == MODEL
    assert set(chat["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    assert set(chat["choices"][0]["message"]) == {"role", "content", "refusal"}
    text = served.text(prompt="Heat", max_tokens=2)
    assert set(text) == head and text["object"] == "text_completion" and text["id"].startswith("cmpl-")
    assert set(text["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    listed = served.client.get("/v1/models").json()
    assert listed["object"] == "list" and [set(one) for one in listed["data"]] == [
        {"id", "object", "created", "owned_by"}
    ]
    assert served.client.get(f"/v1/models/{MODEL}").json() == listed["data"][0]
    other = served.client.get("/v1/models/another/one")
    assert other.status_code == 404 and other.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": HELLO}), (TEXT, {"prompt": ["Heat", "Toy <user>"]})])
def test_streams_hold_what_whole_answers_do(served: Served, path: str, body: dict[str, Any]) -> None:
    fields = {**body, "max_tokens": 9, "n": 2, "seed": 5, "temperature": 1.5, "user": "user-3"}
    whole = served.text(path, **fields)
    events = served.events(path, **fields, stream_options={"include_usage": True})
    *chunks, last = events
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(event["usage"] is None and event["id"] == events[0]["id"] for event in chunks)
    texts, reasons = [""] * len(whole["choices"]), [None] * len(whole["choices"])
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice["delta"] if path == CHAT else choice
        texts[choice["index"]] += delta.get("content" if path == CHAT else "text", "")
        reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    found = [choice["message"]["content"] if path == CHAT else choice["text"] for choice in whole["choices"]]
    assert texts == found and reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert len(set(texts)) > 1
    if path == CHAT:
        assert {chunk["object"] for chunk in events} == {"chat.completion.chunk"}
        assert [chunk["choices"][0]["delta"] for chunk in events[:2]] == [{"role": "assistant", "content": ""}] * 2
    assert "usage" not in served.events(path, **fields)[0]


def test_stop_texts_end_an_answer_and_are_not_in_it(served: Served) -> None:
    whole = served.text(prompt="Movie: Heat", max_tokens=12)["choices"][0]["text"]
    for start in range(1, len(whole) - 3, 4):
        stop = whole[start : start + 3]
        expected = whole[: whole.index(stop)]
        for stops in (stop, ["no such text", stop]):
            (choice,) = served.text(prompt="Movie: Heat", max_tokens=12, stop=stops)["choices"]
            assert choice["text"] == expected and choice["finish_reason"] == "stop"
        events = served.events(prompt="Movie: Heat", max_tokens=12, stop=stop, temperature=0)
        assert "".join(event["choices"][0]["text"] for event in events) == expected


def test_an_answer_ends_at_the_end_token(served: Served, plain: Plain) -> None:
    answer = served.text(prompt="Heat", max_tokens=60, temperature=2.0, seed=0, n=32)
    reasons = [choice["finish_reason"] for choice in answer["choices"]]
    assert set(reasons) == {"stop", "length"} and not any("</s>" in choice["text"] for choice in answer["choices"])
    assert 60 * reasons.count("length") < answer["usage"]["completion_tokens"] < 60 * 32
    text = "Heat " * 40
    width = len(plain.tokenizer(text)["input_ids"]) + 2
    answer = served.text(prompt=text, max_tokens=1000, temperature=2.0, seed=0, n=8)  # beside shorter ones
    assert "length" in [choice["finish_reason"] for choice in answer["choices"]]
    assert answer["usage"]["total_tokens"] <= width + 8 * (256 - width)  # no position after the model's last


def test_a_seed_decides_whatever_else_is_written(served: Served) -> None:
    fields = {"prompt": "Movie: Heat", "max_tokens": 8, "temperature": 1.2, "top_p": 0.9}
    alone = served.text(**fields, seed=7)["choices"][0]["text"]
    both = served.text(**{**fields, "prompt": ["Movie: Heat", "a longer text, so that there is padding"]}, seed=7)
    assert both["choices"][0]["text"] == alone
    assert served.text(**fields, seed=7, n=2)["choices"][0]["text"] == alone
    others = {served.text(**fields, seed=seed)["choices"][0]["text"] for seed in range(5)}
    assert len(others) > 1 and len({served.text(**fields)["choices"][0]["text"] for _ in range(5)}) > 1
    assert served.text(**fields, seed=-3)["choices"] == served.text(**fields, seed=-3)["choices"]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.75), (1.0, 0.0)])
def test_tokens_are_drawn_with_their_probabilities(temperature: float, top_p: float) -> None:
    draws, logits = 4_000, torch.tensor([1.5, 0.2, -1.0, 1.4, -3.0])
    probabilities = (logits.double() / temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept, total = [], 0.0
    for token in order.tolist():  # as few as reach top_p together, and at least one
        kept.append(token)
        total += float(probabilities[token])
        if total >= top_p:
            break
    expected = torch.zeros(5, dtype=torch.double)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    greedy = Sampling(1, temperature=0.0)
    rows = [Sampling(1, temperature=temperature, top_p=top_p)] * draws
    scores = logits.repeat(draws + 1, 1)
    chosen = RowSampling([greedy, *rows], list(range(draws + 1)))(torch.zeros(draws + 1, 0), scores).argmax(-1)  # type: ignore[arg-type]
    assert chosen[0] == 0 and torch.equal(scores, logits.repeat(draws + 1, 1))
    shares = torch.bincount(chosen[1:], minlength=5).double() / draws
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((shares - expected).abs() <= 4 * error).all()


@settings(max_examples=200, deadline=None)
@given(st.text("ab<é", max_size=30), st.lists(st.text("ab<é", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_texts_are_found_however_a_text_is_cut(text: str, stops: list[str], data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    finder, found, stopped = Stops(stops), "", False
    for piece in pieces:
        new, stopped = finder.add(piece)
        found += new
        if stopped:
            break
    if not stopped:
        found += finder.rest()
    first = min((text.find(stop) for stop in stops if stop in text), default=None)
    if first is None:
        assert found == text
    else:
        assert stopped and text.startswith(found) and len(found) >= first - max(map(len, stops))
        assert not any(stop in found for stop in stops)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_tokens_become_the_text_that_they_are_together(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    for text in ("Movie: Toy Story", "héé — 日本語 🎬 end", " a  b ", "</s>x<s>", "é"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        decoder = Decoder(tokenizer)
        pieces = [decoder.add(token) for token in ids]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        assert "".join(pieces) + decoder.rest() == whole
