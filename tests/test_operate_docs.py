"""docs/operate.md, from the demo to the way back: its commands run as they are, on tiny models."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from puma_hub import PromptBank
from puma_hub.cli.main import main
from puma_hub.data.cache import CACHE_VARIABLE, cache_folder
from puma_hub.demo.fetch import fetch
from puma_hub.demo.settings import DATA, SOURCE_MODEL, TARGET_MODEL
from puma_hub.serving.rollout import DeploymentFile
from tests.conftest import CHAT_TEMPLATE, make_model, make_tokenizer
from tests.services import ITEM, until
from tests.test_hub_docs import snippets

STANDING = ("stable", "candidate", "share", "shadow", "up_to_date")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a cache with the demo's data and tiny models under the names of its models."""
    cache = tmp_path / "cache"
    (cache / "models").mkdir(parents=True)
    fetch(DATA, print)
    (cache / "data").symlink_to(cache_folder() / "data")
    for name, family in ((SOURCE_MODEL, "llama"), (TARGET_MODEL, "gemma3")):
        make_model(family).save_pretrained(cache / "models" / name)
        tokenizer = make_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(cache / "models" / name)
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@contextmanager
def serving(words: list[str]) -> Iterator[str]:
    """The command in a process of its own, and its address once it is ready."""
    words[words.index("--port") + 1] = "0"  # the page's port may be taken here
    process = subprocess.Popen(
        [sys.executable, "-m", "puma_hub.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()[1]
        until(lambda: httpx2.get(f"{address}/readyz").status_code == 200, 120)
        yield address
        process.terminate()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and "shadow: " in said and "gemma answers everyone" in said
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_from_the_demo_to_the_way_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [code.replace("\\\n", "").splitlines() for _, code in snippets("operate.md", "canary")]
    first, (serve,), (curl,), steps = ([shlex.split(line)[1:] for line in block] for block in blocks)
    for words in first:
        assert main(words) == 0, words
    source = PromptBank.from_pretrained("puma-demo/source-bank")
    users = source.user_ids
    rows = [{"user": user, "item_text": ITEM} for user in users]
    file = DeploymentFile("deployment.json")

    with serving(serve) as address:

        def expected_of(share: float) -> dict[str, str]:
            deployment = file.read()
            assert deployment.split.share == share
            return {user: deployment.version_of(user).name for user in users}

        def answers() -> dict[str, str]:
            found = httpx2.post(f"{address}/v1/score", json=rows, timeout=60).json()
            return {user: answer["version"] for user, answer in zip(users, found)}

        def stands(expected: tuple[Any, ...]) -> bool:
            found = httpx2.get(f"{address}/v1/deployment").json()
            return tuple(found[key] for key in STANDING) == expected

        assert [model["id"] for model in httpx2.get(f"{address}/v1/models").json()["data"]] == ["films"]
        assert stands(("smollm2", "gemma", 0.0, False, True)) and set(answers().values()) == {"smollm2"}
        answer = httpx2.post(f"{address}/v1/score", content=curl[-1], headers={"content-type": "application/json"})
        assert answer.status_code == 200 and answer.json()["version"] == "smollm2", answer.text
        seen = []
        for words in steps:
            assert main([*words, "--json", "now.json"]) == 0, words
            now = json.loads(Path("now.json").read_text())
            names = (now[role] and now[role]["name"] for role in ("stable", "candidate"))
            until(partial(stands, (*names, now["share"], now["shadow"], True)))
            found = answers()
            assert found == expected_of(now["share"])
            assert now["users"] == {name: sum(v == name for v in found.values()) for name in now["users"]}
            seen.append(sum(version == "gemma" for version in found.values()))
        assert seen[0] == seen[3] == 0 and seen[2] == seen[5] == seen[6] == len(users) == 60
        assert 0 < seen[1] < seen[4] < 60
    assert len(PromptBank.from_pretrained("puma-demo/source-bank")) == 60  # nothing was deleted
