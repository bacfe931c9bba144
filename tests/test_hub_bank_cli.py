"""The command line on published banks: push, info, and commands that take a bank by its repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from puma_hub import PromptBank
from puma_hub.adapter.publish import write_card
from puma_hub.cli.main import main
from tests.conftest import make_bank, make_interactions
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter
from tests.test_hub_cli import error_of, report_of
from tests.test_hub_route import SPECS, make_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_source().save_pretrained(tmp_path / "bank")
    return tmp_path / "bank"


def test_push_info_and_use(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    options = ["--license", "cc-by-4.0", "--message", "First"]
    report = report_of(tmp_path, "push", folder, "lab/bank", *options)
    stored = hub.repository("lab/bank", "dataset")
    assert report["kind"] == "bank" and report["repo_id"] == "lab/bank" and report["commit"] == stored.head()
    assert stored.private and stored.history()[0].title == "First"
    make_adapter(sources=[SPECS["a"]], target=SPECS["b"]).save_pretrained(tmp_path / "adapter")
    login("bob")
    hub.empty_cache()
    hub.clear_requests()
    info = report_of(tmp_path, "info", "lab/bank")
    local = report_of(tmp_path, "info", folder)
    assert info == local | {"commit": stored.head(), "license": "cc-by-4.0"} and info["users"] == len(make_source())
    assert hub.opened() == {"bank.json"}  # no prompt is downloaded to describe it
    migrate = ["--adapter", tmp_path / "adapter", "--out", tmp_path / "out"]
    report_of(tmp_path, "migrate", "--bank", "lab/bank", *migrate)
    ours = PromptBank.from_pretrained(tmp_path / "out")
    report_of(tmp_path, "migrate", "--bank", folder, *migrate)
    theirs = PromptBank.from_pretrained(tmp_path / "out")
    assert len(ours) == len(theirs) and all((ours[user] == prompt).all() for user, prompt in theirs)
    assert HubServer.token("bob") not in "".join(capsys.readouterr())


def test_evaluate_and_select_take_a_repository(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, saved_lm: Callable[..., str]
) -> None:
    login("alice")
    make_bank(8, family="llama").push_to_hub("alice/bank")
    make_bank(8, family="llama").save_pretrained(tmp_path / "bank")
    make_interactions().to_csv(tmp_path / "rows.csv", index=False)
    rows = ["--interactions", tmp_path / "rows.csv"]
    model = ["--model", saved_lm(), *rows]
    theirs, ours = (report_of(tmp_path, "evaluate", "--bank", b, *model) for b in ("alice/bank", tmp_path / "bank"))
    assert theirs["metrics"] == pytest.approx(ours["metrics"])
    report_of(tmp_path, "select", "--bank", "alice/bank", *rows, "--budget", 3, "--out", tmp_path / "users.txt")
    assert len((tmp_path / "users.txt").read_text().split()) == 3


def test_public_only_on_request(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    assert main(["push", str(folder), "alice/open", "--public"]) == 0
    assert not hub.repository("alice/open", "dataset").private
    before = hub.repository("alice/open", "dataset").head()
    for options in ([], ["--private"]):
        assert "is public" in error_of(capsys, "push", folder, "alice/open", *options, status=2)
    assert hub.repository("alice/open", "dataset").head() == before


def test_failures_are_one_line(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "log in" in error_of(capsys, "push", folder, "alice/bank")
    login("bob")
    assert "right" in error_of(capsys, "push", folder, "alice/bank")
    login("alice")
    assert "no default name" in error_of(capsys, "push", folder, status=2)
    assert "license" in error_of(capsys, "push", folder, "alice/bank", "--license", "do as you like", status=2)
    assert main(["push", str(folder), "alice/bank"]) == 0
    migrate = ["--adapter", tmp_path / "none", "--out", tmp_path / "out"]
    login("bob")
    hub.empty_cache()
    assert "private" in error_of(capsys, "info", "alice/bank")
    assert "not a local folder" in error_of(capsys, "migrate", "--bank", "alice/bank", *migrate)
    assert "it is not a folder" in error_of(capsys, "migrate", "--bank", tmp_path / "none", *migrate)
    adapter = make_adapter(sources=[SPECS["a"]], target=SPECS["b"])
    adapter.save_pretrained(tmp_path / "adapter")
    write_card(adapter, tmp_path / "adapter", None)
    assert "puma-hub card" in error_of(capsys, "push", tmp_path / "adapter", "--license", "mit", status=2)
