"""``puma-hub serve``: who may ask and how much, overload, and clients that go away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.serving.service.keys import ApiKeys, RateLimit
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.local import LocalBackend
from puma_hub.serving.service.refusal import Refusal
from puma_hub.serving.service.running import is_loopback
from tests.services import ROW, Served, chat_lm, held_up, local, rated_bank, saved_service, serving, until

BANK = rated_bank()
KEY, OTHER = "first-key-of-the-tests", "second-key-of-the-tests"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_service(tmp_path_factory.mktemp("place"))


def raw(served: Served, request: bytes) -> bytes:
    """What the service answers to bytes."""
    port = int(served.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


# Keys


def test_requests_need_one_of_the_keys() -> None:
    with local(chat_lm(), BANK, keys=(KEY, OTHER)) as served:
        for path in ("/v1/score", "/v1/completions", "/v1/models", "/v1/nothing"):
            for sent in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY}, {"authorization": "Basic x"}):
                answer = served.client.post(path, json=ROW, headers=sent)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key" and KEY not in answer.text
        for key in (KEY, OTHER):
            assert served.score(ROW, authorization=f"Bearer {key}").status_code == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert served.client.get(path).status_code == 200
        held = vars(served.service.keys)
        assert KEY not in repr(held) and KEY.encode() not in repr(held).encode()


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{KEY}\n\n  {OTHER}  \n{KEY}\n")
    assert len(ApiKeys.load(str(file))) == 2
    monkeypatch.setenv("PUMA_HUB_API_KEYS", f"{KEY},{OTHER}")
    assert len(ApiKeys.load(None)) == 2
    monkeypatch.setenv("PUMA_HUB_API_KEYS", "")
    assert len(ApiKeys.load(None)) == 0
    for content in ("", "# nothing\n", "short\n", "a key with spaces in it\n", f"{KEY}é\n"):
        file.write_text(content)
        with pytest.raises(ConfigurationError, match="token_urlsafe") as caught:
            ApiKeys.load(str(file))
        assert KEY not in str(caught.value)
    with pytest.raises(StorageError, match="cannot read the API keys"):
        ApiKeys.load(str(tmp_path / "none"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="UTF-8"):
        ApiKeys.load(str(file))


def test_without_keys_only_this_machine_is_answered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", "")] == [False] * 5
    command = ["serve", "--model", str(place / "llama"), "--bank", str(place / "bank"), "--host", "0.0.0.0"]
    assert main(command) == 2 and "requests need API keys" in capsys.readouterr().err
    with local(chat_lm(), BANK, only_here=True) as served:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
            assert served.score(ROW, host=host).status_code == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
            answer = served.score(ROW, host=host)
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden_host"
        form = served.client.post("/v1/score", content=json.dumps(ROW), headers={"content-type": "text/plain"})
        assert form.status_code == 415  # what a web page may send without being asked


# Rates


def test_a_rate_is_each_keys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = RateLimit(2.0)
    for _ in range(2):
        limit.take(0)
    with pytest.raises(Refusal) as caught:
        limit.take(0)
    assert caught.value.status == 429 and caught.value.headers["retry-after"] == "1"
    limit.take(1)
    now += 0.5  # one more
    limit.take(0)
    with pytest.raises(Refusal):
        limit.take(0)
    now += 3600  # no more than two at once after a pause
    for _ in range(2):
        limit.take(0)
    with pytest.raises(Refusal):
        limit.take(0)
    slow = RateLimit(0.1)
    slow.take(0)
    with pytest.raises(Refusal) as caught:
        slow.take(0)
    assert caught.value.headers["retry-after"] == "10"


def test_too_many_requests_are_told_when_to_come_again() -> None:
    with local(chat_lm(), BANK, keys=(KEY, OTHER), rate=0.01) as served:
        first, second = f"Bearer {KEY}", f"Bearer {OTHER}"
        assert served.score(ROW, authorization=first).status_code == 200
        answer = served.score(ROW, authorization=first)
        assert answer.status_code == 429 and 90 <= int(answer.headers["retry-after"]) <= 100
        assert answer.json()["error"] == {
            "message": "more than 0.01 requests a second; ask again later",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert served.score(ROW, authorization=second).status_code == 200
        assert served.client.get("/healthz").status_code == 200


# Sizes


def test_large_bodies_are_refused_before_they_are_read() -> None:
    with local(chat_lm(), BANK, max_body=1000, max_rows=3, max_characters=500) as served:
        assert served.score([ROW] * 3).status_code == 200
        assert served.score([ROW] * 4).json()["error"]["code"] == "too_many_rows"
        long = served.score({**ROW, "item_text": "x" * 501})
        assert long.status_code == 400 and long.json()["error"]["code"] == "too_long"
        history = served.score({**ROW, "history": ["x" * 300, "y" * 300]})
        assert history.json()["error"]["code"] == "too_long"
        chat = [{"role": "user", "content": "x" * 300}, {"role": "user", "content": "y" * 300}]
        assert (
            served.post("/v1/chat/completions", {"user": "u", "messages": chat}).json()["error"]["code"] == "too_long"
        )
        whole = served.score({**ROW, "item_text": "x" * 1000})
        assert whole.status_code == 413 and whole.json()["error"]["code"] == "body_too_large"

        def parts() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        chunked = served.client.post("/v1/score", content=parts(), headers={"content-type": "application/json"})
        assert chunked.status_code == 413

        def small() -> Iterator[bytes]:
            yield json.dumps(ROW).encode()[:9]
            yield json.dumps(ROW).encode()[9:]

        chunked = served.client.post("/v1/score", content=small(), headers={"content-type": "application/json"})
        assert chunked.status_code == 200
        head = b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        assert b" 413 " in raw(served, head + b"content-length: 1000000000000\r\n\r\n{")
        zipped = served.client.post(
            "/v1/score", content=b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"}
        )
        assert zipped.status_code == 415


def test_a_body_that_does_not_come_is_given_up() -> None:
    with local(chat_lm(), BANK, timeout=0.5) as served:
        port = int(served.url.rsplit(":", 1)[1])
        for beginning in (b"", b"{"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(
                    b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                    b"content-length: 500\r\n\r\n" + beginning
                )
                assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_batch_size": 0},
        {"max_batch_size": 2.5},
        {"max_rows": True},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"timeout": float("inf")},
        {"max_wait_ms": -1.0},
        {"queue": 10, "max_rows": 20},
    ],
)
def test_limits_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        ServiceLimits(**changes)


# Overload


def test_a_full_queue_refuses_and_those_in_it_are_answered() -> None:
    lm = chat_lm()
    with local(lm, BANK, queue=6, max_rows=4) as served, ThreadPoolExecutor(8) as pool:
        expected = served.score(ROW).json()
        with held_up(served, lm, pool) as first:
            waiting = [pool.submit(served.score, [ROW] * 4)]
            until(lambda: served.service.backend.waiting()["scores"] == 4)
            refused = served.score([ROW] * 3)  # 2 would fit; a request is taken as a whole
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            waiting.append(pool.submit(served.score, [ROW] * 2))
            until(lambda: served.service.backend.waiting()["scores"] == 6)
            assert 'puma_hub_queue_length{queue="scores"} 6.0' in served.client.get("/metrics").text
            assert served.score(ROW).status_code == 503
        assert first.result().json() == expected
        for one, number in zip(waiting, (4, 2)):
            assert [found["score"] for found in one.result().json()] == pytest.approx([expected["score"]] * number)
        assert served.score(ROW).status_code == 200


def test_rows_of_a_client_who_has_gone_are_not_scored() -> None:
    lm = chat_lm()
    body = json.dumps([ROW] * 5).encode()
    request = (
        b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    with local(lm, BANK) as served, ThreadPoolExecutor(8) as pool:
        with held_up(served, lm, pool) as first:
            connection = socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
            connection.sendall(request % len(body) + body)
            until(lambda: served.service.backend.waiting()["scores"] == 5)
            stays = pool.submit(served.score, ROW)
            until(lambda: served.service.backend.waiting()["scores"] == 6)
            connection.close()
            until(lambda: served.service.backend.waiting()["scores"] == 1)
        assert first.result().status_code == stays.result().status_code == 200
        assert served.service.meters.worked["scores"] == 2


def test_a_text_is_not_written_on_when_its_client_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    lm = chat_lm()
    _ = lm.generator
    caplog.clear()
    with local(lm, BANK, max_tokens=10_000) as served:
        fields = {"user": "user-1", "prompt": "Heat", "max_tokens": 240, "seed": 4, "n": 8}
        served.text(**fields)
        began = time.monotonic()
        served.text(**fields)
        whole = time.monotonic() - began
        with served.client.stream("POST", "/v1/completions", json={**fields, "stream": True}) as answer:
            next(answer.iter_lines())
        began = time.monotonic()
        served.text(prompt="Heat", max_tokens=1)
        assert time.monotonic() - began < whole / 2
    assert not caplog.records


def test_a_request_that_takes_too_long_is_given_up() -> None:
    lm = chat_lm()
    with local(lm, BANK, timeout=0.6) as served, ThreadPoolExecutor(8) as pool:
        with held_up(served, lm, pool) as first:
            late = served.score([ROW] * 3)
            assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
            assert served.service.backend.waiting()["scores"] == 0
        assert first.result().status_code == 504
        until(lambda: served.score(ROW).status_code == 200)
    with local(lm, BANK, timeout=0.4, max_tokens=10_000) as served:
        fields = {"user": "user-1", "prompt": "Heat", "max_tokens": 240, "seed": 4, "n": 100, "stream": True}
        with served.client.stream("POST", "/v1/completions", json=fields) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        assert all("choices" in json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_before_the_model_is_loaded() -> None:
    loaded, lm = threading.Event(), chat_lm()

    def make(setting: Any) -> LocalBackend:
        assert loaded.wait(60)
        return LocalBackend(setting)

    with serving(make, lm, BANK, wait=False) as served:
        until(lambda: served.client.get("/healthz").status_code == 200)
        assert served.client.get("/healthz").json() == {"status": "ok", "ready": False}
        for answer in (served.client.get("/readyz"), served.score(ROW)):
            assert answer.status_code == 503 and answer.headers["retry-after"]
        loaded.set()
        until(lambda: served.client.get("/readyz").status_code == 200)
        assert served.score(ROW).status_code == 200
