"""``hf puma``: the real ``hf`` installs the files of examples/hf-puma and runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.cli import extensions

EXAMPLE = Path(__file__).parents[1] / "examples" / "hf-puma"
EXTENSION = Path(".local/share/hf/extensions/hf-puma")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, whose ``bin`` holds the console script as pip writes it."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "hf-puma"
    script.write_text(f"#!{sys.executable}\nfrom puma_hub.cli.main import entry\nentry()\n")
    script.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DISABLE_UPDATE_CHECK", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return tmp_path


def hf(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """``hf`` as it is typed, with ``path`` before the system's commands."""
    start = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()"]
    places = os.pathsep.join(filter(None, [path, "/usr/bin", "/bin"]))
    environment = {**os.environ, "PATH": places, "COLUMNS": "120"}
    return subprocess.run([*start, *arguments], capture_output=True, text=True, env=environment)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """``hf extensions install lab/hf-puma``, with the example's folder in place of that repository on GitHub."""
    from huggingface_hub.cli import hf

    def github(method: str, url: str, **_: Any) -> httpx2.Response:
        file = EXAMPLE / url.rpartition("/")[2]
        of_the_page = method == "HEAD" and url == "https://github.com/lab/hf-puma"
        there = url.startswith("https://raw.githubusercontent.com/lab/hf-puma/HEAD/") and file.is_file()
        content = file.read_bytes() if there else b""
        answer = httpx2.Response(
            200 if there or of_the_page else 404, content=content, request=httpx2.Request(method, url)
        )
        answer.raise_for_status()
        return answer

    monkeypatch.setattr(extensions, "_github_request", github)
    monkeypatch.setattr(sys, "argv", ["hf", "extensions", "install", "lab/hf-puma"])
    with pytest.raises(SystemExit) as ended:
        hf.app()
    assert not ended.value.code


def test_hf_installs_and_runs_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert (home / EXTENSION / "hf-puma").read_bytes() == (EXAMPLE / "hf-puma").read_bytes()
    path = str(home / "bin")
    shown = hf("puma", "push", "--help", path=path)
    assert shown.stdout.startswith("usage: hf puma push ") and "example: hf puma push migrator/adapter" in shown.stdout
    failed = hf("puma", "info", "/nowhere/at/all", path=path)
    assert failed.returncode == 1 and failed.stderr.startswith("hf puma info: cannot describe /nowhere/at/all")
    ((name, described),) = extensions.list_installed_extensions_for_help()
    assert name == "puma" and described.startswith("Migrate personalised soft prompts from one language model to")
    without = hf("puma", "--help")
    assert without.returncode == 127 and "hf puma: the package puma_hub is not on the PATH" in without.stderr


def test_the_name_is_that_of_the_command_typed(home: Path) -> None:
    done = subprocess.run([home / "bin" / "hf-puma", "--help"], capture_output=True, text=True)
    assert done.stdout.startswith("usage: hf puma ") and "example: hf puma demo" in done.stdout
    module = subprocess.run([sys.executable, "-m", "puma_hub.cli.main", "--help"], capture_output=True, text=True)
    assert module.stdout.startswith("usage: puma-hub ") and "hf puma" not in module.stdout
