"""``puma-hub serve``: what each endpoint answers, over HTTP, compared with plain forward passes."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_hub import ClickTask, PromptBank, RatingTask
from puma_hub.bank import KeyedStore
from puma_hub.pipelines.scoring import PersonalizedScoringPipeline
from puma_hub.serving.service.backend import Sampling
from puma_hub.serving.service.sampling import RowSampling
from puma_hub.serving.service.writing import Decoder, Stops
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank, make_tokenizer
from tests.services import MODEL, Plain, Served, chat_lm, distribution_of, local

BANK = make_bank(family="llama", length=2, template="<item>\nRating by one user:<user> ", task=RatingTask())
ITEM = "Toy Story (1995)"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Movie?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with local(chat_lm(), BANK) as one:
        yield one


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(BANK)


# Scores


def test_a_row_is_scored_as_by_a_plain_forward_pass(served: Served, plain: Plain) -> None:
    for user in ("user-0", "user-5"):
        answer = served.score({"user": user, "item_text": ITEM})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        found = answer.json()
        assert list(found) == ["score", "distribution"] and list(found["distribution"]) == ["1", "2", "3", "4", "5"]
        expected = plain.distribution(user, ITEM)
        np.testing.assert_allclose(distribution_of(found), expected, atol=2e-6)
        assert found["score"] == pytest.approx(float(expected @ np.arange(1, 6)), abs=1e-5)


def test_rows_of_a_list_keep_their_order_and_fail_alone(served: Served, plain: Plain) -> None:
    rows: list[Any] = [{"user": f"user-{number % 8}", "item_text": f"{ITEM} {number}"} for number in range(20)]
    bad = {3: {"user": "nobody-7", "item_text": ITEM}, 7: {"user": "user-1"}, 9: [], 12: {"user": 1, "item_text": ITEM}}
    bad[15] = {"user": "user-1", "item_text": "long " * 300}
    for place, row in bad.items():
        rows[place] = row
    answer = served.score(rows)
    assert answer.status_code == 200 and "nobody" not in answer.text
    found = answer.json()
    assert len(found) == len(rows)
    codes = {place: one["error"]["code"] for place, one in enumerate(found) if "error" in one}
    assert codes == {
        3: "unknown_user",
        7: "missing_field",
        9: "invalid_value",
        12: "invalid_value",
        15: "unusable_text",
    }
    for row, one in zip(rows, found):
        if "error" not in one:
            expected = plain.distribution(row["user"], row["item_text"])
            np.testing.assert_allclose(distribution_of(one), expected, atol=2e-6)
    assert served.score([]).json() == []


def test_scores_are_the_pipelines_with_a_head_an_offset_and_a_history() -> None:
    torch.manual_seed(1)
    task = RatingTask(offset="bias")
    bank = make_bank(family="llama", task=task, head=RatingHead(5))
    lm = chat_lm(task=task)
    rows = [{"user": f"user-{n}", "item_text": ITEM, "bias": 0.25 * n} for n in range(4)]
    pipeline = PersonalizedScoringPipeline(lm, bank=bank)
    expected = pipeline([{"user_id": row["user"], **row} for row in rows])
    with local(lm, bank) as served:
        found = served.score(rows).json()
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)
        assert served.score({**rows[0], "bias": "high"}).json()["error"]["param"] == "bias"
        missing = served.score({"user": "user-1", "item_text": ITEM})
        assert missing.status_code == 400 and missing.json()["error"]["param"] == "bias"
    click = chat_lm(task=ClickTask())
    bank = make_bank(family="llama", task=ClickTask())
    row = {"user": "user-1", "item_text": ITEM, "history": ["An earlier one", "A later one"]}
    (one,) = PersonalizedScoringPipeline(click, bank=bank)([{"user_id": "user-1", **row}])
    with local(click, bank) as served:
        found = served.score(row).json()
        assert found["score"] == pytest.approx(one["score"], abs=1e-6) and list(found["distribution"]) == ["Yes", "No"]
        other = served.score({**row, "history": ["Another"]}).json()
        assert other["score"] != pytest.approx(one["score"], abs=1e-6)


# Texts


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


# Refusals


BAD: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": "Hi"}, "messages"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages[0]"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0]"),
    (CHAT, {"messages": HELLO, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": HELLO, "logprobs": True}, "logprobs"),
    (CHAT, {"messages": HELLO, "prompt": "x"}, "prompt"),
    (TEXT, {"prompt": "x", "user": None}, "user"),
    (TEXT, {"prompt": "x", "user": 7}, "user"),
    (TEXT, {"prompt": [1, 2, 3]}, "prompt[0]"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": "x", "temperature": 2.5}, "temperature"),
    (TEXT, {"prompt": "x", "temperature": "hot"}, "temperature"),
    (TEXT, {"prompt": "x", "top_p": -0.1}, "top_p"),
    (TEXT, {"prompt": "x", "n": 0}, "n"),
    (TEXT, {"prompt": "x", "n": True}, "n"),
    (TEXT, {"prompt": ["x"] * 100, "n": 100}, "n"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
    (TEXT, {"prompt": "x", "max_tokens": 5000}, "max_tokens"),
    (TEXT, {"prompt": "x", "stop": ["a"] * 5}, "stop"),
    (TEXT, {"prompt": "x", "stop": [""]}, "stop[0]"),
    (TEXT, {"prompt": "x", "seed": 2**70}, "seed"),
    (TEXT, {"prompt": "x", "seed": 1.5}, "seed"),
    (TEXT, {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
    (TEXT, {"prompt": "x", "echo": True}, "echo"),
    (TEXT, {"prompt": "x", "suffix": "y"}, "suffix"),
    (TEXT, {"prompt": "x", "best_of": 2}, "best_of"),
    (TEXT, {"prompt": "x", "logprobs": 0}, "logprobs"),
    (TEXT, {"prompt": "x", "frequency_penalty": 0.5}, "frequency_penalty"),
    (TEXT, {"prompt": "x", "logit_bias": {"5": 1}}, "logit_bias"),
    (TEXT, {"prompt": "x", "prompt_embeds": "AAAA"}, "prompt_embeds"),
    (TEXT, {"prompt": "x", "top_k": 5}, "top_k"),
    ("/v1/score", {"item_text": ITEM}, "user"),
    ("/v1/score", {"user": "user-1", "item_text": ITEM, "prompt": [[0.0]]}, ""),
    ("/v1/score", {"user": "user-1", "item_text": ITEM, "history": "x"}, "history"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD)
def test_a_field_that_cannot_be_met_is_refused(served: Served, path: str, body: dict[str, Any], param: str) -> None:
    whole = body if path == "/v1/score" else {"user": "user-1", **body}
    answer = served.post(path, whole)
    error = answer.json()["error"]
    assert answer.status_code == 400 and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and (error["param"] or "").startswith(param)


def test_fields_without_a_meaning_for_the_answer_are_taken(served: Served) -> None:
    neutral = {"metadata": {"a": "b"}, "store": True, "service_tier": "auto", "frequency_penalty": 0, "echo": False}
    neutral |= {"logit_bias": {}, "best_of": 1, "suffix": None, "logprobs": None, "safety_identifier": "x", "n": None}
    assert (
        served.text(prompt="Heat", max_tokens=2, **neutral)["choices"]
        == (served.text(prompt="Heat", max_tokens=2)["choices"])
    )
    tools = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"]}
    assert served.text(CHAT, messages=HELLO, max_tokens=2, **tools)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (TEXT, {"prompt": "x", "model": "another"}, 404, "model_not_found"),
        (TEXT, {"prompt": "<user> and <user>"}, 400, "unusable_text"),
        (TEXT, {"prompt": "long " * 300}, 400, "unusable_text"),
        (TEXT, {"prompt": "x", "user": "nobody-7"}, 404, "unknown_user"),
        (TEXT, {"prompt": "x", "user": "nobody-7", "stream": True}, 404, "unknown_user"),
        (CHAT, {"messages": HELLO, "user": ""}, 404, "unknown_user"),
        ("/v1/score", {"item_text": ITEM, "user": "nobody-7\0"}, 404, "unknown_user"),
        ("/v1/score", {"item_text": "long " * 300}, 400, "unusable_text"),
    ],
)
def test_what_is_not_there_or_does_not_fit(
    served: Served, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = served.post(path, {"user": "user-1", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "nobody" not in answer.text


def test_addresses_that_are_not_served(served: Served) -> None:
    for method, path, status in [
        ("GET", "/v1/users/user-1", 404),
        ("POST", "/v1/score/", 404),
        ("GET", "/v1/score", 405),
        ("PUT", "/v1/completions", 405),
        ("POST", "/metrics", 405),
    ]:
        answer = served.client.request(method, path)
        error = answer.json()["error"]
        assert answer.status_code == status and set(error) == {"message", "type", "param", "code"}
        assert "user-1" not in answer.text


def test_unknown_users_may_have_the_mean_prompt(plain: Plain) -> None:
    plain.prompts["mean"] = BANK.prompts.mean(axis=0, dtype=np.float64).astype(np.float32)
    with local(chat_lm(), BANK, unknown_users="mean") as served:
        known, new = served.score([{"user": user, "item_text": ITEM} for user in ("user-2", "nobody-7")]).json()
        assert known["cold_start"] is False and new["cold_start"] is True
        np.testing.assert_allclose(distribution_of(new), plain.distribution("mean", ITEM), atol=2e-6)
        text = served.text(prompt="Movie: Heat", user="nobody-7", max_tokens=6)
        assert text["cold_start"] is True
        assert text["choices"][0]["text"] == plain.text("mean", "", "Movie: Heat", 6)
        assert served.text(prompt="Heat", user="user-2", max_tokens=1)["cold_start"] is False
        events = served.events(CHAT, messages=HELLO, user="nobody-7", max_tokens=2)
        assert all(event["cold_start"] is True for event in events)
        page = served.client.get("/metrics").text
        assert "puma_hub_unknown_users_total 3.0" in page and "nobody" not in page


# Around


def test_health_figures_and_documentation(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"status": "ok", "ready": True}
    assert served.client.get("/readyz").status_code == 200
    served.score([{"user": "user-1", "item_text": ITEM}] * 5)
    served.score({"user": "nobody-7", "item_text": ITEM})
    page = served.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    figures = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
    assert float(figures['puma_hub_requests_total{endpoint="/v1/score",status="200"}']) >= 1
    assert float(figures['puma_hub_requests_total{endpoint="/v1/score",status="404"}']) >= 1
    assert float(figures['puma_hub_request_seconds_count{endpoint="/v1/score"}']) >= 2
    assert float(figures['puma_hub_batch_size_sum{queue="scores"}']) >= 6
    assert (
        float(figures['puma_hub_queue_length{queue="scores"}'])
        == 0
        == float(figures['puma_hub_queue_length{queue="texts"}'])
    )
    assert float(figures["puma_hub_unknown_users_total"]) >= 1 and figures["puma_hub_ready"] == "1.0"
    assert not re.search(r"user-\d|nobody", page.text)
    schema = served.client.get("/openapi.json").json()
    assert {"/v1/score", CHAT, TEXT, "/v1/models", "/healthz", "/metrics"} <= set(schema["paths"])
    body = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert set(fields["required"]) == {"user", "messages"} and "temperature" in fields["properties"]
    assert "swagger" in served.client.get("/docs").text.lower()


def test_the_example_asks_for_scores_and_a_text(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[1] / "examples" / "serve" / "ask.py"
    main = runpy.run_path(str(example))["main"]
    items = ["--item", ITEM, "--item", "Heat"]
    main(["--url", served.url, "--user", "user-1", *items, "--chat", "Movie?"])
    first, second, *text = capsys.readouterr().out.split("\n")
    found = served.score([{"user": "user-1", "item_text": item} for item in (ITEM, "Heat")]).json()
    best = max(one["score"] for one in found)
    assert first.startswith(f"{best:.2f}  ") and {first[6:], second[6:]} == {ITEM, "Heat"} and text
    for more in (items, ["--chat", "Movie?"]):
        with pytest.raises(SystemExit, match="not among those"):
            main(["--url", served.url, "--user", "nobody", *more])


def test_prompts_of_a_keyed_store_and_a_user_who_is_deleted(tmp_path: Path, plain: Plain) -> None:
    BANK.to_lmdb(tmp_path / "store")
    with local(chat_lm(), KeyedStore(tmp_path / "store"), unknown_users="mean") as served:
        row = {"user": "user-5", "item_text": ITEM}
        found = served.score(row).json()
        np.testing.assert_allclose(distribution_of(found), plain.distribution("user-5", ITEM), atol=2e-6)
        KeyedStore(tmp_path / "store").delete(["user-5"])
        assert served.score(row).json()["cold_start"] is True
    with local(chat_lm(), KeyedStore(tmp_path / "store")) as served:
        assert served.score(row).status_code == 404


def test_prompts_in_a_banks_files(tmp_path: Path, plain: Plain) -> None:
    BANK.save_pretrained(tmp_path / "bank")
    with local(chat_lm(), PromptBank.from_pretrained(tmp_path / "bank")) as served:
        for user in ("user-5", "user-6", "user-5"):
            found = served.score({"user": user, "item_text": ITEM}).json()
            np.testing.assert_allclose(distribution_of(found), plain.distribution(user, ITEM), atol=2e-6)
