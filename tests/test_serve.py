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

from puma_hub import ClickTask, PromptBank, RatingTask
from puma_hub.bank import KeyedStore
from puma_hub.pipelines.scoring import PersonalizedScoringPipeline
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.services import ITEM, Plain, Served, chat_lm, distribution_of, local, rated_bank

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
