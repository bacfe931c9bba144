"""A full disk and a folder that may not be written: a clear error, and nothing half written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from puma_hub import errors as e
from puma_hub.training.state import STATE_FILE
from tests.bad_input import Place
from tests.commands import COMMANDS, command_place, files_of, forked_cli, hidden, temporary_folder  # noqa: F401
from tests.forked_cli import ForkedCli
from tests.hub_server import HubServer

REPORT = (
    "report --source {0}/llama --source-bank {0}/bank --model {0}/llama --bank {0}/bank --interactions {0}/rows.csv "
    "--resamples 100 --json {1}/report.json --out {1}/report.html"
)
LIMITS = 3  # sizes a disk is full at, for each command


def too_small(sizes: list[int]) -> list[int]:
    """Sizes at which some of the files do not fit, from the smallest on; a file's own size differs a little by run."""
    distinct = sorted(set(sizes))
    chosen = [distinct[place * (len(distinct) - 1) // (LIMITS - 1)] for place in range(LIMITS)]
    return [size * 9 // 10 for size in dict.fromkeys(chosen)]


def refused(cli: ForkedCli, *arguments: object, **options: object) -> None:
    """The command says in one line that space is lacking."""
    ended = cli.run(*arguments, **options)
    (line,) = [line for line in ended.err.splitlines() if line.startswith("puma-hub")]
    assert ended.status == 1 and "cannot write" in line and "free space" in line, ended.err
    assert "Traceback" not in ended.err and not ended.out


@pytest.mark.parametrize("command", [*COMMANDS, "report"])
def test_a_disk_that_is_full_at_one_file_after_the_other(
    cli: ForkedCli, place: Path, tmp_path: Path, command: str
) -> None:
    """What a refused run leaves is whole; with space again, the same command ends as one that always had it."""

    def to(out: Path) -> list[object]:
        return (
            [*COMMANDS[command](place), "--out", out] if command in COMMANDS else [*REPORT.format(place, out).split()]
        )

    whole, out = tmp_path / "whole", tmp_path / "out"
    ended = cli.run(*to(whole))
    assert ended.status == 0, ended.err
    expected = files_of(whole)
    for limit in too_small([path.stat().st_size for path in whole.rglob("*") if path.is_file()]):
        refused(cli, *to(out), file_bytes=limit)
        for name, content in files_of(out).items():
            assert Path(name).name == STATE_FILE or content == expected[name]
        assert not hidden(out)
    ended = cli.run(*to(out))
    assert ended.status == 0, ended.err
    assert files_of(out) == expected and not hidden(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "folder"), [("model", "lab/adapter", "adapter"), ("dataset", "lab/bank", "many")]
)
def test_a_disk_that_is_full_while_publishing(
    cli: ForkedCli, place: Path, temporary: Path, hub: HubServer, kind: str, name: str, folder: str
) -> None:
    login = {"environment": {"HF_TOKEN": HubServer.token("alice")}}
    ended = cli.run("push", place / folder, name, **login)
    assert ended.status == 0, ended.err
    expected = hub.repository(name, kind).files()
    sizes = [len(content) for path, content in expected.items() if path != ".gitattributes"]
    for limit in too_small(sizes):
        refused(cli, "push", place / folder, f"{name}-2", file_bytes=limit, **login)
        assert not list(temporary.iterdir())
    assert cli.run("push", place / folder, f"{name}-2", **login).status == 0
    found = hub.repository(f"{name}-2", kind).files()
    assert found.keys() == expected.keys()
    assert all(content == expected[path] for path, content in found.items() if path not in ("README.md", "bank.json"))


@pytest.mark.parametrize("write", ["bank", "adapter"])
def test_a_folder_that_may_not_be_written(write: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents):  # another user may look as far as pytest's own folders reach
        folder.chmod(0o755)
        if folder.name.startswith("pytest-of-") or len(folder.parts) < 3:
            break
    root = os.geteuid() == 0
    os.seteuid(65534 if root else os.geteuid())  # root may write anywhere
    try:
        with pytest.raises(e.StorageError, match=r"Permission denied.*choose another folder"):
            place.bank.save_pretrained(locked / "x") if write == "bank" else place.adapter.save_pretrained(locked / "x")
    finally:
        os.seteuid(0 if root else os.geteuid())
    assert not list(locked.iterdir())
    shutil.rmtree(locked)
