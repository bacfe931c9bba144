"""The back end ``vllm``, with a stand-in for vLLM's server that runs a plain model on the embeddings it is sent."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puma_hub.cli.main import main
from puma_hub.errors import ServingError
from puma_hub.serving.service.backend import BackendSetting
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.meters import Meters
from puma_hub.serving.service.vllm import VllmBackend
from tests.conftest import CHAT_TEMPLATE, make_model, make_tokenizer
from tests.services import ITEM, Plain, Served, distribution_of, rated_bank, serving

BANK = rated_bank()
KEY = "key-of-the-engine"


class Engine(ThreadingHTTPServer):
    """Answers as vLLM's server does, as far as the back end asks: models, completions of embeddings, events."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.model: Any = make_model("llama")
        self.tokenizer = make_tokenizer()
        self.fault: tuple[int, str] | None = None
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "engine-model", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        if self.server.fault is not None:
            status, said = self.server.fault
            self.answer(status, {"error": {"message": said}})
            return
        assert self.path == "/v1/completions" and body["model"] == "engine-model"
        assert self.headers.get("authorization") == f"Bearer {KEY}"
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)[None]
        if body.get("stream"):
            self.write(embeds, body)
            return
        with torch.no_grad():
            logs = self.server.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        found = {f"token_id:{token}": float(logs[token]) for token in body["logprob_token_ids"]}
        self.answer(200, {"choices": [{"index": 0, "text": "x", "logprobs": {"top_logprobs": [found]}}]})

    def write(self, embeds: torch.Tensor, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        ids = self.server.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=body["max_tokens"],
            do_sample=False,
        )[0]
        for index in range(body["n"]):
            for token in ids:
                text = self.server.tokenizer.decode([token], skip_special_tokens=True)
                self.event({"choices": [{"index": index, "text": text, "finish_reason": None}]})
            self.event({"choices": [{"index": index, "text": "", "finish_reason": "length"}]})
        self.event({"choices": [], "usage": {"completion_tokens": len(ids) * body["n"]}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, content: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with Engine() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the model whose embeddings are sent."""
    place = tmp_path_factory.mktemp("vllm") / "llama"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    make_model("llama").save_pretrained(place)
    tokenizer.save_pretrained(place)
    BANK.save_pretrained(place.parent / "bank")
    return place


@contextmanager
def through(engine: Engine, folder: Path, **options: Any) -> Iterator[Served]:
    make = partial(VllmBackend, url=engine.url)
    with serving(make, None, BANK, model=str(folder), **options) as served:
        yield served


def test_scores_and_texts_are_those_of_the_local_model(engine: Engine, folder: Path) -> None:
    plain = Plain(BANK)
    with through(engine, folder) as served:
        rows = [{"user": f"user-{number % 8}", "item_text": f"{ITEM} {number}"} for number in range(9)]
        rows.insert(4, {"user": "nobody-7", "item_text": ITEM})
        found = served.score(rows).json()
        assert found.pop(4)["error"]["code"] == "unknown_user"
        rows.pop(4)
        for row, one in zip(rows, found):
            expected = plain.distribution(row["user"], row["item_text"])
            np.testing.assert_allclose(distribution_of(one), expected, atol=2e-6)
            assert one["score"] == pytest.approx(float(expected @ np.arange(1, 6)), abs=1e-5)
        answer = served.text(prompt=["Movie: Heat", "I am <user>."], max_tokens=6, n=2)
        texts = [plain.text("user-1", "", "Movie: Heat", 6), plain.text("user-1", "I am ", ".", 6)]
        assert [choice["text"] for choice in answer["choices"]] == [texts[0], texts[0], texts[1], texts[1]]
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 4
        assert answer["usage"]["completion_tokens"] == 24
        sent = engine.bodies[-1]
        assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["n"]) == (0, 1, -1, 2)
        assert not any(name in json.dumps(engine.bodies) for name in ("user-1", "nobody"))
        chat = served.text("/v1/chat/completions", messages=[{"role": "user", "content": "Movie?"}], max_tokens=6)
        expected_text = plain.text("user-1", "<s><|user|>", "Movie?\n<|assistant|>", 6)
        assert chat["choices"][0]["message"]["content"] == expected_text
        events = served.events(prompt="Movie: Heat", max_tokens=6, temperature=0)
        assert "".join(event["choices"][0]["text"] for event in events) == texts[0] and len(events) > 4
        assert served.client.get("/metrics").text.count('queue="vllm"')


def test_unknown_users_may_have_the_mean_prompt(engine: Engine, folder: Path) -> None:
    plain = Plain(BANK)
    plain.prompts["mean"] = BANK.prompts.mean(axis=0, dtype=np.float64).astype(np.float32)
    with through(engine, folder, unknown_users="mean") as served:
        known, new = served.score([{"user": user, "item_text": ITEM} for user in ("user-2", "nobody-7")]).json()
        assert known["cold_start"] is False and new["cold_start"] is True
        np.testing.assert_allclose(distribution_of(new), plain.distribution("mean", ITEM), atol=2e-6)
        text = served.text(prompt="Movie: Heat", user="nobody-7", max_tokens=6)
        assert text["cold_start"] is True and text["choices"][0]["text"] == plain.text("mean", "", "Movie: Heat", 6)


def test_an_engine_that_fails(engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"user": "user-1", "item_text": ITEM}
    text = {"user": "user-1", "prompt": "Heat"}
    with through(engine, folder) as served:
        for fault, status, code in [
            ((500, "broken"), 502, "engine_error"),
            ((400, "You must set --enable-prompt-embeds to input prompt_embeds"), 502, "engine_error"),
            ((400, "maximum context length"), 400, "unusable_text"),
            ((429, "busy"), 503, "overloaded"),
            ((200, "no choices"), 502, "engine_error"),
        ]:
            engine.fault = fault
            answers = [served.score(row), *([] if fault[0] == 200 else [served.post("/v1/completions", text)])]
            assert [answer.status_code for answer in answers] == [status] * len(answers), answers[0].text
            assert {answer.json()["error"]["code"] for answer in answers} == {code}
        engine.fault = None
        assert served.score(row).status_code == 200
        long = served.post("/v1/completions", {"user": "user-1", "prompt": "long " * 300})
        assert long.status_code == 400 and long.json()["error"]["code"] == "unusable_text"
        engine.shutdown()
        engine.server_close()
        assert served.score(row).status_code == 502
    assert "user-1" not in caplog.text and "enable-prompt-embeds" in caplog.text


def test_no_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = BackendSetting(lambda: None, BANK, ServiceLimits(), Meters(), model=str(folder))  # type: ignore[arg-type,return-value]
    for url in ("http://127.0.0.1:9", "no address"):
        with pytest.raises(ServingError, match="enable-prompt-embeds"):
            VllmBackend(setting, url=url)
    command = ["serve", "--model", str(folder), "--bank", str(folder.parent / "bank"), "--port", "0"]
    assert main([*command, "--backend", "vllm", "--option", "url=http://127.0.0.1:9"]) == 1
    assert "there is no vLLM server at http://127.0.0.1:9" in capsys.readouterr().err
