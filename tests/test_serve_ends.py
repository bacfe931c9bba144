"""``puma-hub serve``: orderly ends, processes of the command, and what their logs hold."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from puma_hub.cli.main import main
from puma_hub.serving.service.limits import ServiceLimits
from tests.services import ROW, chat_lm, held_up, local, rated_bank, saved_service, until

BANK = rated_bank()
KEY = "first-key-of-the-tests"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_service(tmp_path_factory.mktemp("place"))


def test_an_end_finishes_what_waits_and_gives_the_rest_up_in_time() -> None:
    lm = chat_lm()
    with local(lm, BANK, grace=30) as served, ThreadPoolExecutor(8) as pool:
        with held_up(served, lm, pool) as first:
            waits = pool.submit(served.score, [ROW] * 4)
            until(lambda: served.service.backend.waiting()["scores"] == 4)
            served.running.stop()
            until(lambda: served.service.stopping)
        assert first.result().status_code == waits.result().status_code == 200
    with local(lm, BANK, grace=0.3) as served, ThreadPoolExecutor(8) as pool, held_up(served, lm, pool) as first:
        waits = pool.submit(served.score, [ROW] * 4)
        until(lambda: served.service.backend.waiting()["scores"] == 4)
        served.running.stop()
        for answer in (waits.result(), first.result()):
            found = answer.json()
            error = found[0]["error"] if isinstance(found, list) else found["error"]
            assert error["code"] == "overloaded" and "stopping" in error["message"]
    with local(lm, BANK, grace=0.3, max_tokens=10_000) as served, ThreadPoolExecutor(8) as pool:
        fields = {"user": "user-1", "prompt": "Heat", "max_tokens": 240, "seed": 4, "n": 100}
        long = pool.submit(served.post, "/v1/completions", fields)
        until(lambda: served.service.meters.batched["texts"])
        served.running.stop()
        assert long.result().status_code == 503


@contextmanager
def started(place: Path, *more: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``puma-hub serve`` in a process of its own, ready, and its address."""
    command = [sys.executable, "-m", "puma_hub.cli.main", "serve", "--model", str(place / "llama")]
    command += ["--bank", str(place / "bank"), "--port", "0", *more]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()[1]
        until(lambda: httpx2.get(f"{address}/readyz").status_code == 200, 120)
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_ends_a_process_in_order_and_nothing_names_a_user(place: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    report = tmp_path / "report.json"
    with started(place, "--api-keys", str(keys), "--json", str(report)) as (process, address):
        client = httpx2.Client(base_url=address, timeout=60, headers={"authorization": f"Bearer {KEY}"})
        rows = [{"user": f"user-{number % 8}", "item_text": f"Toy Story {number}"} for number in range(200)]
        known = client.post("/v1/score", json=rows).json()
        client.post("/v1/score?user=user-3", json=ROW)
        client.get("/v1/users/user-4")
        client.post("/v1/score", json={"user": "nobody-7", "item_text": "x"})
        client.post("/v1/score", content=b'{"user": "nobody-7', headers={"content-type": "application/json"})
        client.post("/v1/completions", json={"user": "nobody-7", "prompt": "x", "top_k": "user-5"})
        client.post("/v1/completions", json={"user": "user-6", "prompt": "<user><user> of user-6"})
        texts = {"user": "user-1", "prompt": "Heat", "max_tokens": 60, "n": 12, "seed": 3}
        with ThreadPoolExecutor(6) as pool:
            running = [pool.submit(client.post, "/v1/score", json=rows) for _ in range(3)]
            running.append(pool.submit(client.post, "/v1/completions", json=texts))

            def accepted() -> bool:
                figures = client.get("/metrics").text
                return 'puma_hub_batch_size_count{queue="texts"} 1.0' in figures

            until(accepted)
            process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in running]
        assert [answer.status_code for answer in answers] == [200] * 4
        for answer in answers[:3]:
            assert [one["score"] for one in answer.json()] == pytest.approx([one["score"] for one in known], abs=1e-5)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "stopping" in err and "requests in" in out
        with pytest.raises(httpx2.ConnectError):
            client.get("/healthz")
    for text in (out, err, report.read_text()):
        assert "user-" not in text and "nobody" not in text and KEY not in text and "Heat" not in text
    found = json.loads(report.read_text())
    assert found["requests"]["/v1/score"] == {"200": 5, "400": 1, "404": 1} and found["unknown_users"] == 1
    assert found["requests"]["/v1/completions"] == {"200": 1, "400": 2}
    assert found["queues"]["scores"]["entries"] == 802 and found["model"] == "llama"  # no folder of this machine


def test_sigint_ends_it_too_and_a_second_signal_does_not_wait(place: Path) -> None:
    with started(place, "--max-tokens", "4000", PUMA_HUB_API_KEYS=KEY) as (process, address):
        client = httpx2.Client(base_url=address, timeout=60, headers={"authorization": f"Bearer {KEY}"})
        texts = {"user": "user-1", "prompt": "Heat", "max_tokens": 240, "n": 128, "seed": 3}
        with ThreadPoolExecutor(2) as pool:
            pool.submit(client.post, "/v1/completions", json=texts)
            until(lambda: 'puma_hub_batch_size_count{queue="texts"}' in client.get("/metrics").text)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            assert process.wait(timeout=60) == 0 and time.monotonic() - began < 20


def test_a_model_that_cannot_be_loaded_ends_the_process(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["serve", "--port", "0", "--bank", str(place / "bank"), "--model"]
    assert main([*command, str(place / "none")]) == 1
    assert "none" in capsys.readouterr().err
    assert main([*command, str(place / "llama"), "--template", "<item> <user>:"]) == 1
    assert "the bank's prompts were made with the template" in capsys.readouterr().err


def test_wrong_use_of_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["serve", "--model", str(place / "llama"), "--bank", str(place / "bank")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*command, "--port", str(taken.getsockname()[1])]) == 2
        assert "choose another --port" in capsys.readouterr().err
    assert main([*command, "--port", "70000"]) == 2 and "65535" in capsys.readouterr().err
    assert main([*command, "--port", "0", "--host", "no.such.host.invalid", "--no-api-keys"]) == 2
    assert "cannot listen on no.such.host.invalid" in capsys.readouterr().err
    assert main([*command, "--port", "0", "--max-rows", "5000"]) == 2 and "queue" in capsys.readouterr().err
    assert main([*command, "--port", "0", "--option", "url=x"]) == 2 and "no option 'url'" in capsys.readouterr().err
    assert main([*command, "--port", "0", "--timeout", "-3"]) == 2 and "timeout must be" in capsys.readouterr().err


def test_help_states_the_usual_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    usual = vars(ServiceLimits())
    for name, value in usual.items():
        flag = f"--{name.replace('_', '-')} "
        if flag in shown and value is not None:
            after = shown[shown.rindex(flag) :].split("(default: ")[1].split(")")[0]
            assert float(after) == value, name


def test_a_missing_package_is_named(place: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from puma_hub.cli.main import main\n"
        f"sys.exit(main(['serve', '--model', {str(place / 'llama')!r}, '--bank', {str(place / 'bank')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'puma_hub[serve]'" in done.stderr
