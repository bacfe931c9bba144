"""docs/serve.md: its command serves, and its requests are answered, on a tiny model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx2
import pytest

from puma_hub import PromptBank
from puma_hub.cli.main import build_parser
from tests.services import rated_bank, saved_service
from tests.test_serve_ends import started

PAGE = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")


def commands(program: str) -> list[list[str]]:
    """The page's commands of a program, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


def test_the_pages_requests_are_answered(tmp_path: Path) -> None:
    serve, behind_vllm = commands("puma-hub")
    parser = build_parser()
    assert parser.parse_args(serve[1:]).backend == "local" and parser.parse_args(behind_vllm[1:]).backend == "vllm"
    assert [word for word in serve if word.startswith("-")] == ["--model", "--bank"]  # as `started` has them
    place = saved_service(tmp_path)
    bank = rated_bank()
    users = ["136", *bank.user_ids[1:]]
    facts = {"template": bank.provenance.template, "task": bank.provenance.task}
    PromptBank.from_arrays(users, bank.prompts, bank.model, **facts).save_pretrained(place / "bank")
    asked = commands("curl")
    assert len(asked) == 2
    with started(place) as (_, address):
        score, chat = (
            httpx2.post(
                words[1].replace("localhost:8000", address),
                content=words[words.index("-d") + 1],
                headers=dict([words[words.index("-H") + 1].split(": ")]),
                timeout=60,
            )
            for words in asked
        )
    assert score.status_code == chat.status_code == 200, (score.text, chat.text)
    assert sum(score.json()["distribution"].values()) == pytest.approx(1.0)
    assert chat.json()["object"] == "chat.completion" and chat.json()["usage"]["completion_tokens"] <= 40
