"""A service of two versions: who is answered by which, how it follows the file, and shadow mode."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puma_hub import PersonalizedLM, PromptBank, RatingTask
from puma_hub.cli import common, serve_command
from puma_hub.cli.main import build_parser, main
from puma_hub.errors import StorageError
from puma_hub.serving.prompts import Prompts
from puma_hub.serving.rollout import Deployment, DeploymentFile, Split, Version
from puma_hub.serving.service.backend import Backend, BackendSetting
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.local import LocalBackend
from puma_hub.serving.service.meters import Meters
from puma_hub.serving.service.versions import VersionedBackend
from tests.conftest import make_bank
from tests.services import (
    ITEM,
    ROW,
    Plain,
    Served,
    chat_lm,
    distribution_of,
    held_up,
    rated_bank,
    saved_service,
    serving,
    until,
)

TEMPLATE = "<item>\nRating by one user:<user> "
BANKS = {
    "old": rated_bank(40),
    "new": make_bank(40, family="gemma3", length=2, template=TEMPLATE, task=RatingTask()),
    "few": rated_bank(20),
    "other-task": make_bank(40, family="llama", length=2, template=TEMPLATE, task=RatingTask(values=(1.0, 2.0))),
}
FAMILIES = {"old": "llama", "new": "gemma3", "few": "llama", "other-task": "llama"}
OLD, NEW, FEW, OTHER, LOST = (Version(name, name, name) for name in ("old", "new", "few", "other-task", "lost"))
USERS = BANKS["old"].user_ids
BOTH = Deployment("movies", OLD, NEW, Split(salt="salt"))


@contextmanager
def deployed(path: Path, deployment: Deployment, said: list[str] | None = None, **options: Any) -> Iterator[Any]:
    """A service of a deployment, its file, and the scorers that were loaded, by the version's name."""
    file = DeploymentFile(path / "deployment.json")
    file.write(deployment)
    lms: dict[str, Any] = {}

    def make(setting: BackendSetting) -> Backend:
        def load(version: Version) -> tuple[Backend, Prompts]:
            if version.bank not in BANKS:
                raise StorageError(f"no prompts at {version.bank}")
            bank = BANKS[version.bank]
            lms[version.name] = chat_lm(FAMILIES[version.bank], task=bank.provenance.task)
            own = BackendSetting(
                lambda: lms[version.name], bank, setting.limits, setting.meters, unknown_users=setting.unknown_users
            )
            return LocalBackend(own), bank

        say = (said if said is not None else []).append
        return VersionedBackend(file, load, limits=setting.limits, meters=setting.meters, say=say)

    with serving(make, None, BANKS["old"], **options) as served:
        yield served, file, lms


def versions(served: Served, users: list[str] = USERS) -> dict[str, str]:
    """The version that answers each user."""
    answers = served.score([{"user": user, "item_text": ITEM} for user in users]).json()
    return {user: answer["version"] for user, answer in zip(users, answers)}


def stands(served: Served, expected: tuple[float, str, str | None]) -> bool:
    return tuple(standing(served)[key] for key in ("share", "stable", "candidate")) == expected


def standing(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.client.get("/v1/deployment").json()
    return found


def test_each_user_is_answered_by_their_version_as_by_a_plain_forward_pass(tmp_path: Path) -> None:
    plain = {name: Plain(BANKS[name], FAMILIES[name]) for name in ("old", "new")}
    deployment = BOTH.with_share(30.0)
    with deployed(tmp_path, deployment) as (served, _, lms):
        answers = served.score([{"user": user, "item_text": f"{ITEM} {user[-1]}"} for user in USERS]).json()
        for user, answer in zip(USERS, answers):
            assert list(answer) == ["score", "distribution", "version"]
            assert answer["version"] == deployment.version_of(user).name
            expected = plain[answer["version"]].distribution(user, f"{ITEM} {user[-1]}")
            np.testing.assert_allclose(distribution_of(answer), expected, atol=2e-6)
        assert {answer["version"] for answer in answers} == {"old", "new"}
        drawn = {name: next(u for u in USERS if deployment.version_of(u).name == name) for name in ("old", "new")}
        for name, user in drawn.items():
            text = served.text(prompt="Heat", max_tokens=4, user=user)
            assert text["version"] == name and text["system_fingerprint"] == lms[name].spec.fingerprint
            assert text["choices"][0]["text"] == plain[name].text(user, "", "Heat", 4)
            chunk = served.events(prompt="Heat", max_tokens=2, user=user)[0]
            assert chunk["version"] == name and chunk["system_fingerprint"] == lms[name].spec.fingerprint
        figures = served.client.get("/metrics").text
        assert 'puma_hub_version_share{version="new"} 30.0' in figures
        count = sum(answer["version"] == "new" for answer in answers)
        assert f'puma_hub_version_answers_total{{version="new"}} {count + 2}.0' in figures
        unknown = served.score({"user": "nobody", "item_text": ITEM})
        assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "unknown_user"
        before = versions(served)
    with deployed(tmp_path, deployment) as (served, _, _):  # a restart
        assert versions(served) == before


def test_it_follows_the_file_and_no_request_fails_meanwhile(tmp_path: Path) -> None:
    said: list[str] = []
    failed: list[Any] = []
    over = threading.Event()

    with deployed(tmp_path, Deployment("movies", OLD), said) as (served, file, _):

        def ask() -> None:
            while not over.is_set():
                for body in (ROW, [{"user": user, "item_text": ITEM} for user in USERS[:9]]):
                    answer = served.score(body)
                    if answer.status_code != 200 or "error" in answer.text:
                        failed.append(answer.text)
                text = served.post("/v1/completions", {"user": "user-2", "prompt": "Heat", "max_tokens": 8})
                if text.status_code != 200:
                    failed.append(text.text)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        seen = set()
        for step, expected in (
            (lambda now: now.add(NEW).with_share(10.0), (10.0, "old", "new")),
            (lambda now: now.with_share(60.0), (60.0, "old", "new")),
            (lambda now: now.promote(), (100.0, "old", "new")),
            (lambda now: now.roll_back(), (0.0, "old", "new")),
            (lambda now: now.promote(), (100.0, "old", "new")),
            (lambda now: now.retire()[0], (0.0, "new", None)),
        ):
            deployment = file.change(step)
            until(partial(stands, served, expected))
            found = versions(served)
            assert found == {user: deployment.version_of(user).name for user in USERS}
            seen.add(frozenset(found.values()))
        assert len(seen) == 3  # old, both and new
        over.set()
        for client in clients:
            client.join()
        until(lambda: not served.service.backend._tasks)  # the old version is closed
    assert not failed, failed[:3]
    assert "new answers 10 % of users, and old the others" in said and said[-1] == "new answers everyone"


def test_where_one_version_alone_has_a_prompt_it_answers(tmp_path: Path) -> None:
    with deployed(tmp_path, Deployment("movies", OLD, FEW).promote(), unknown_users="mean") as (served, _, _):
        assert versions(served) == {user: "few" if user in BANKS["few"] else "old" for user in USERS}
        answer = served.score({"user": "nobody", "item_text": ITEM}).json()
        assert answer["version"] == "few" and answer["cold_start"] is True
        text = served.text(prompt="Heat", max_tokens=2, user="user-30")
        assert text["version"] == "old" and text["cold_start"] is False
    with deployed(tmp_path, Deployment("movies", FEW, OLD)) as (served, _, _):
        assert versions(served)["user-30"] == "old" and versions(served)["user-3"] == "few"


def test_shadow_mode_compares_both_versions_on_what_is_asked(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"user": user, "item_text": f"{ITEM} {number}"} for user in USERS for number in range(3)]
    deployment = BOTH.with_share(30.0).with_shadow(True)
    with deployed(tmp_path, deployment, said, unknown_users="mean") as (served, file, _):
        answers = served.score(rows).json()
        assert [answer["version"] for answer in answers] == [deployment.version_of(row["user"]).name for row in rows]
        served.score([*rows[:2], {"user": "nobody", "item_text": ITEM}])
        served.score({"user": "nobody", "item_text": ITEM})
        until(lambda: standing(served)["agreement"]["rows"] == 122)
        found = standing(served)["agreement"]
        figures = served.client.get("/metrics").text
        file.change(lambda now: now.with_shadow(False))
        until(lambda: not standing(served)["shadow"])
        served.score(rows)
    plain = {name: Plain(BANKS[name], FAMILIES[name]) for name in ("old", "new")}
    asked = [*rows, *rows[:2]]
    spread = {n: np.array([p.distribution(row["user"], row["item_text"]) for row in asked]) for n, p in plain.items()}
    old, new = (spread[name] @ np.arange(1, 6) for name in ("old", "new"))
    same = spread["old"].argmax(1) == spread["new"].argmax(1)
    assert (found["stable"], found["candidate"], found["left_out"]) == ("old", "new", 2)
    assert found["same_answer"] == pytest.approx(same.mean())
    assert found["drift"] == pytest.approx((new - old).mean(), abs=1e-5)
    assert found["mean_absolute_difference"] == pytest.approx(abs(new - old).mean(), abs=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(old, new)[0, 1], abs=1e-3)
    assert "puma_hub_shadow_rows_total 122.0" in figures and "puma_hub_shadow_left_out_total 2.0" in figures
    (line,) = [line for line in said if line.startswith("shadow: ")]  # when it ended, and not after that
    assert line.startswith("shadow: 122 rows by old and new: same answer") and line.endswith("2 left out")
    assert not any("user-" in line or "nobody" in line for line in said)


def test_rows_are_left_out_of_a_comparison_that_would_keep_others_waiting(tmp_path: Path) -> None:
    limits = {"queue": 16, "max_rows": 16}
    with deployed(tmp_path, BOTH.with_shadow(True), **limits) as (served, _, _):
        assert len(versions(served, USERS[:5])) == 5  # a quarter of the queue is 4
        until(lambda: standing(served)["agreement"]["left_out"] == 5)
        assert len(versions(served, USERS[:4])) == 4
        until(lambda: standing(served)["agreement"]["rows"] == 4)


def test_what_cannot_be_served_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puma_hub.serving.service.following._RETRIES", 2)
    said: list[str] = []
    with deployed(tmp_path, BOTH.with_share(30.0), said) as (served, file, _):
        before = versions(served)

        def refused(why: str) -> None:
            until(lambda: not standing(served)["up_to_date"] and any(why in line for line in said))
            assert versions(served) == before and sum(why in line for line in said) == 1

        def good() -> None:
            file.write(BOTH.with_share(30.0))
            until(lambda: standing(served)["up_to_date"] and versions(served) == before)

        file.path.write_text("{")
        refused("is not valid JSON")
        good()
        file.path.unlink()
        refused("no deployment file")
        good()
        file.write(Deployment("movies", OLD, LOST).promote())
        refused("no prompts at lost")
        monkeypatch.setitem(BANKS, "lost", BANKS["new"])  # it is there at the next try
        monkeypatch.setitem(FAMILIES, "lost", "gemma3")
        until(lambda: standing(served)["up_to_date"])
        assert set(versions(served).values()) == {"lost"}
        good()
        file.write(Deployment("movies", OLD, OTHER).promote())
        refused("version other-task: its prompts were trained for")
    nowhere = Deployment("movies", OLD, Version("new", "x", "elsewhere"))
    with pytest.raises(StorageError, match="at elsewhere"), deployed(tmp_path, nowhere, wait=False) as (served, _, _):
        until(lambda: served.service.stopping)


def test_a_full_queue_of_one_version_fails_its_rows_alone(tmp_path: Path) -> None:
    salt = next(salt for salt in "abcdef" if not Split(50.0, salt=salt).takes("user-1"))
    deployment = Deployment("movies", OLD, NEW, Split(50.0, salt=salt))
    mine = {name: [u for u in USERS if deployment.version_of(u).name == name] for name in ("old", "new")}
    with deployed(tmp_path, deployment, queue=4, max_rows=4) as (served, _, lms), ThreadPoolExecutor(4) as pool:
        with held_up(served, lms["old"], pool) as first:
            waits = pool.submit(served.score, [{"user": user, "item_text": ITEM} for user in mine["old"][:4]])
            until(lambda: served.service.backend.waiting()["scores"] == 4)
            found = served.score([{"user": mine[name][0], "item_text": ITEM} for name in ("old", "new")]).json()
            assert found[0]["error"]["code"] == "overloaded" and found[1]["version"] == "new"
            alone = served.score({"user": mine["old"][0], "item_text": ITEM})
            assert alone.status_code == 503 and "retry-after" in alone.headers
        assert first.result().status_code == waits.result().status_code == 200


def test_wrong_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(LocalBackend, chat_lm(), BANKS["old"]) as served:
        assert served.client.get("/v1/deployment").status_code == 404
    path = str(tmp_path / "deployment.json")
    for more, words in (
        ([], "give --model and --bank, or a --deployment file"),
        (["--deployment", path], "there is no deployment file"),
        (["--deployment", path, "--model", "x"], "leave --model out"),
        (["--deployment", path, "--backend", "vllm"], "leave --backend out"),
    ):
        assert main(["serve", "--port", "0", *more]) in (1, 2)
        assert words in capsys.readouterr().err
    for wrong, words in (
        (["--add", "x"], "give --model and --bank"),
        (["--bank", "x"], "--bank is about a version to add"),
        (["--option", "url=x"], "--option is about a version to add"),
        (["--delete-bank"], "give --retire"),
        (["--promote", "--share", "10"], "changes of their own"),
        (["--share", "101"], "there is no deployment file"),
    ):
        assert main(["rollout", "--deployment", path, *wrong]) in (1, 2)
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_versions_of_one_llm_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    real = common.load_lm

    def counted(name: str, *more: Any) -> PersonalizedLM:
        loads.append(os.path.basename(name))
        return real(name, *more)

    monkeypatch.setattr(common, "load_lm", counted)
    saved_service(tmp_path)
    rated_bank(5).save_pretrained(tmp_path / "again")
    first, second = (Version(name, "./llama", f"./{name}") for name in ("bank", "again"))
    file = DeploymentFile(tmp_path / "deployment.json")
    file.write(Deployment("movies", first, second, Split(50.0)))
    args = build_parser().parse_args(["serve", "--deployment", str(file.path)])
    backend = serve_command._versions(args, ServiceLimits(), file, Meters())
    assert loads == ["llama"]
    row = {"user_id": "user-1", "item_text": ITEM}
    (answer,) = asyncio.run(backend.score([row]))
    assert isinstance(answer, dict) and answer["version"] in ("bank", "again")


def test_a_version_is_added_with_its_bank_and_retired_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new", "other-task"):
        BANKS[name].save_pretrained(name)
    (tmp_path / "model").mkdir()

    def rollout(*words: str) -> int:
        return main(["rollout", *words])

    def add(name: str, *more: str) -> int:
        return rollout("--add", name, "--model", "model", "--bank", name, *more)

    assert add("old", "--share", "10") == 2 and "need a second" in capsys.readouterr().err
    assert add("old", "--option", "url=x") == 2 and "no option 'url'" in capsys.readouterr().err
    assert add("old", "--bank-revision", "main") == 2 and "no revisions" in capsys.readouterr().err
    assert add("old", "--name", "movies") == 0
    assert add("other-task") == 1 and "trained for" in capsys.readouterr().err
    assert add("new", "--share", "25") == 0
    deployment = DeploymentFile("deployment.json").read()
    drawn = sum(deployment.version_of(user).name == "new" for user in USERS)
    assert deployment.name == "movies" and deployment.split.share == 25.0 and 0 < drawn < 40
    printed = capsys.readouterr().out
    assert f"| new       | candidate | 25 %    | {drawn}" in printed and "user-" not in printed
    (tmp_path / "users.txt").write_text("user-1\nuser-x\n")
    assert rollout("--users", "users.txt", "--shadow", "on", "--json", "now.json") == 0
    assert "2 listed users are answered by the candidate; 1 of them have no prompt" in capsys.readouterr().out
    Path("old").rename("away")  # what cannot be counted is still done
    assert rollout("--share", "30") == 0 and "users cannot be counted" in capsys.readouterr().err
    assert rollout("--users", "users.txt") == 0 and DeploymentFile("deployment.json").read().split.share == 30.0
    Path("away").rename("old")
    assert "user-1" not in Path("now.json").read_text() + Path("deployment.json").read_text()
    assert rollout("--retire", "--delete-bank") == 2 and rollout("--promote") == 0
    Path("old/notes.txt").write_text("mine")
    before = Path("deployment.json").read_bytes()
    assert rollout("--retire", "--delete-bank") == 1 and "notes.txt" in capsys.readouterr().err
    assert Path("deployment.json").read_bytes() == before and Path("old/notes.txt").is_file()
    Path("old/notes.txt").unlink()
    assert rollout("--retire", "--delete-bank") == 0 and not Path("old").exists() and Path("new").is_dir()
    assert "is deleted" in capsys.readouterr().err
    assert rollout("--rollback") == 2 and "new is the only version" in capsys.readouterr().err
    BANKS["old"].to_lmdb("store")
    assert rollout("--add", "again", "--model", "model", "--bank", "store") == 0
    assert rollout("--retire") == 0 and Path("store").is_dir()  # nothing is deleted that is not asked for
    assert isinstance(PromptBank.from_pretrained("new"), PromptBank)
