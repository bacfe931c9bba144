"""``puma-hub reproduce`` where files in the folder are somebody else's, or users are too few for newcomers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puma_hub.cli.main import main
from tests.reproduced import NEWCOMERS, USERS, make_place, write_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    make_place(folder)
    return folder


@pytest.mark.parametrize("kind", ["json", "md", "png"])
def test_somebody_elses_files_stay(place: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / f"table2.{kind}"
    other.write_text("{}")
    typed = ["reproduce", "table2", "--config", str(place / "config.yaml"), "--out", str(tmp_path)]
    assert main(typed) == 1 and other.read_text() == "{}" and not (tmp_path / "parts").exists()


def test_nobody_need_be_a_newcomer(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": str(place / "rows.csv"), "users": USERS + NEWCOMERS, "newcomers": 0, "item_statistics": True}
    path = str(write_config(place, "all.yaml", data=data, seeds=[1]))
    given = ["--config", path, "--out", str(tmp_path / "out")]
    assert main(["reproduce", "controls", *given, "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["config"]["data"]["newcomers"] == 0
    capsys.readouterr()
    assert main(["reproduce", "cold-start", *given]) == 2
    assert "cold start is about newcomers" in capsys.readouterr().err


def test_too_few_users_for_newcomers(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": str(place / "rows.csv"), "users": USERS, "newcomers": NEWCOMERS + 1}
    config = write_config(place, "few.yaml", data=data)
    assert main(["reproduce", "table2", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert f"leave {NEWCOMERS} of {USERS + NEWCOMERS} users" in capsys.readouterr().err
