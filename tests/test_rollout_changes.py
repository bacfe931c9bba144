"""A service of two versions whose file, versions and log change in ways that nobody plans."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from puma_hub import PersonalizedLM, PromptBank
from puma_hub.cli.main import main
from puma_hub.serving.rollout import Deployment, Version
from tests import test_rollout_service as service
from tests.services import ITEM, chat_lm, held_up, rated_bank, until
from tests.test_rollout_service import BANKS, BOTH, OLD, USERS, deployed, standing, stands, versions


def test_a_state_that_is_taken_back_while_it_is_loaded_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, loads = threading.Event(), []

    def slow(family: str, **options: Any) -> PersonalizedLM:
        loads.append(family)
        assert family == "llama" or go_on.wait(30)
        return chat_lm(family, **options)

    monkeypatch.setattr(service, "chat_lm", slow)
    said: list[str] = []
    with deployed(tmp_path, Deployment("movies", OLD), said) as (served, file, _):
        file.write(BOTH.with_share(50.0))
        until(lambda: loads == ["llama", "gemma3"])
        assert not standing(served)["up_to_date"] and set(versions(served).values()) == {"old"}
        file.write(BOTH.with_share(10.0))
        go_on.set()
        until(partial(stands, served, (10.0, "old", "new")))
        until(lambda: standing(served)["up_to_date"])
        assert loads == ["llama", "gemma3"] and not any("50 %" in line for line in said)
        go_on.clear()
        file.write(Deployment("movies", OLD))
        until(partial(stands, served, (0.0, "old", None)))
        file.write(BOTH.with_share(50.0))
        until(lambda: len(loads) == 3)
        file.write(Deployment("movies", OLD))
        go_on.set()
        until(lambda: standing(served)["up_to_date"])
        assert stands(served, (0.0, "old", None))
        until(lambda: not served.service.backend._leaving)  # what was loaded in vain is closed


def test_a_retired_version_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {}

    def watched(family: str, **options: Any) -> PersonalizedLM:
        lm = chat_lm(family, **options)
        kept[family] = weakref.ref(lm.model)
        return lm

    monkeypatch.setattr(service, "chat_lm", watched)
    with deployed(tmp_path, BOTH.promote()) as (served, file, lms):
        versions(served)
        served.text(prompt="Heat", max_tokens=2)
        gc.collect()
        gc.disable()  # as in a service that has not made enough objects yet
        try:
            lms.clear()
            file.change(lambda now: now.retire()[0])
            until(lambda: kept["llama"]() is None)
        finally:
            gc.enable()
        assert kept["gemma3"]() is not None and set(versions(served).values()) == {"new"}


def test_a_request_that_has_begun_ends_on_a_retired_version(tmp_path: Path) -> None:
    with deployed(tmp_path, BOTH, grace=0.1) as (served, file, lms), ThreadPoolExecutor(1) as pool:
        with held_up(served, lms["old"], pool) as waits:
            file.change(lambda now: now.promote().retire()[0])
            until(partial(stands, served, (0.0, "new", None)))
            time.sleep(0.5)  # longer than a service that stops would wait
        answer = waits.result()
        assert answer.status_code == 200 and answer.json()["version"] == "old", answer.text


def test_the_service_stops_with_a_retired_version_that_still_answers(tmp_path: Path) -> None:
    with (
        deployed(tmp_path, BOTH, grace=0.2) as (served, file, lms),
        ThreadPoolExecutor(1) as pool,
        held_up(served, lms["old"], pool) as waits,
    ):
        file.change(lambda now: now.promote().retire()[0])
        until(partial(stands, served, (0.0, "new", None)))
        served.running.stop()
        assert waits.result().status_code == 503  # as of a version that is still served


def test_a_log_that_nobody_reads_keeps_nothing_from_being_served(tmp_path: Path) -> None:
    class Closed(list[str]):
        def append(self, line: str) -> None:
            raise BrokenPipeError

    with deployed(tmp_path, BOTH.with_shadow(True), Closed()) as (served, file, _):
        file.path.write_text("{")
        until(lambda: not standing(served)["up_to_date"])
        for share in (100.0, 0.0):
            file.write(BOTH.with_share(share))
            until(partial(stands, served, (share, "old", "new")))


def test_another_version_of_the_same_name_is_compared_anew_and_another_name_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    with deployed(tmp_path, BOTH.with_shadow(True), said) as (served, file, _):
        versions(served)
        until(lambda: standing(served)["agreement"]["rows"] == len(USERS))
        file.write(BOTH.with_shadow(True).with_share(10.0))
        until(partial(stands, served, (10.0, "old", "new")))
        assert standing(served)["agreement"]["rows"] == len(USERS)
        file.write(Deployment("movies", OLD, Version("new", "new", "few"), shadow=True))
        until(lambda: standing(served)["agreement"]["rows"] == 0)
        assert sum(line.startswith("shadow: 40 rows") for line in said) == 1
        file.write(Deployment("films", OLD))
        until(partial(stands, served, (0.0, "old", None)))
    assert "the LLM is called movies until the service starts again, then films" in said


def test_failures_of_a_disk_are_those_of_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = PromptBank.__getitem__

    def broken(bank: PromptBank, user: str) -> Any:
        if bank is BANKS["new"] and user == "user-3":
            raise OSError(f"cannot read {user}")
        return real(bank, user)

    monkeypatch.setattr(PromptBank, "__getitem__", broken)
    with deployed(tmp_path, BOTH.promote()) as (served, _, _):
        found = served.score([{"user": user, "item_text": ITEM} for user in USERS[:6]]).json()
        assert [one.get("version") for one in found] == ["new", "new", "new", None, "new", "new"]
        assert found[3]["error"]["code"] == "internal_error"
    with deployed(tmp_path, BOTH.with_shadow(True)) as (served, _, _):

        async def fails(*_: Any) -> Any:
            raise RuntimeError("user-3")

        monkeypatch.setattr(served.service.backend._standing.loaded[1].backend, "score", fails)
        assert set(versions(served, USERS[:6]).values()) == {"old"}
        until(lambda: standing(served)["agreement"]["left_out"] == 6)
    assert "RuntimeError" in caplog.text and "user-3" not in caplog.text


def test_what_an_operator_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    BANKS["old"].save_pretrained("old")
    BANKS["few"].save_pretrained("few")
    rated_bank(10).to_lmdb("store")
    Path("model").mkdir()

    def rollout(*words: str) -> int:
        return main(["rollout", *words])

    def add(name: str, *more: str) -> int:
        return rollout("--add", name, "--model", "model", "--bank", name, *more)

    assert add("old", "--backend", "vllm") == 2
    assert "the back end 'vllm' needs the option url" in capsys.readouterr().err
    assert add("old", "--backend", "vllm", "--option", "url=http://127.0.0.1:9") == 0
    for name, count in (("few", 20), ("store", 10)):
        assert add(name) == 0 and rollout("--share", "100%") == 0
        printed = capsys.readouterr().out
        assert f"| {name:<9} | candidate | 100 %   | {count}" in printed, printed  # the others have no prompt there
        assert rollout("--share", "0") == 0 and rollout("--retire") == 0
    with pytest.raises(SystemExit):
        rollout("--share", "ten")
    assert "must be a number from 0 to 100, in per cent of all users, got 'ten'" in capsys.readouterr().err
