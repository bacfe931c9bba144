"""The command line on the Hub: push, search, route, chain, card, info, with two users' rights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from puma_hub import ModelSpec, PromptBank, PumaAdapter, chain, pair_repo_id
from puma_hub.adapter.facts import AdapterFacts, Training
from puma_hub.adapter.publish import write_card
from puma_hub.cli.main import main
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter
from tests.test_hub_route import SPECS, evaluation, make_source

PAIR = pair_repo_id("org/a", "org/b", "alice")


def folder(tmp_path: Path, source: str = "a", target: str = "b", loss: float | None = 0.05) -> str:
    """An adapter's folder with its facts and card, as the demo leaves one."""
    path = tmp_path / f"{source}{target}"
    adapter = make_adapter(sources=[SPECS[source]], target=SPECS[target])
    adapter.save_pretrained(path)
    known = AdapterFacts((evaluation(loss),), Training(2, 5), "apache-2.0") if loss is not None else None
    write_card(adapter, path, known)
    return str(path)


def report_of(tmp_path: Path, *arguments: object) -> dict[str, object]:
    file = tmp_path / "report.json"
    assert main([str(argument) for argument in (*arguments, "--json", file)]) == 0
    found: dict[str, object] = json.loads(file.read_text())
    return found


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 1) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("puma-hub")]
    assert len(lines) == 1 and "Traceback" not in captured.err and "unexpected" not in lines[0] and not captured.out
    assert HubServer.token("alice") not in captured.err and HubServer.token("bob") not in captured.err
    return lines[0]


def test_push_search_route_chain_info(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    report = report_of(tmp_path, "push", folder(tmp_path))
    assert report["repo_id"] == PAIR and report["commit"] == hub.repository(PAIR).head() and report["kind"] == "adapter"
    assert f'from_pretrained("{PAIR}")' in ModelCard.load(PAIR).text
    report_of(tmp_path, "push", folder(tmp_path, "b", "c", None), "lab/bc", "--message", "First")
    assert "no evaluation" in capsys.readouterr().err
    report_of(tmp_path, "push", folder(tmp_path, "c", "d"), "--namespace", "lab", "--private")
    assert hub.repository(pair_repo_id("org/c", "org/d", "lab")).private

    login("bob")
    hub.empty_cache()
    found = report_of(tmp_path, "search")
    assert {adapter["repo_id"] for adapter in found["adapters"]} >= {PAIR, "lab/bc"}  # type: ignore[union-attr, index]
    report_of(tmp_path, "search", "--source", "org/a", "--target", "org/b", "--namespace", "alice")
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells == [PAIR, "org/a -> org/b", "5.0%", "data", "0", "0"]
    assert main(["search", "--source", "org/none"]) == 0 and "no such adapter is published" in capsys.readouterr().out

    bank = make_source()
    bank.save_pretrained(tmp_path / "bank")
    route = report_of(tmp_path, "route", tmp_path / "bank", "org/c")
    printed = capsys.readouterr().out
    assert "a chain of 2 adapters" in printed and "10.0% (assumed, not reported)" in printed
    assert route["is_chain"] and route["loss"] == pytest.approx(1.05 * 1.1 - 1)
    chained = report_of(tmp_path, "chain", "--bank", tmp_path / "bank", "--to", "org/c", "--out", tmp_path / "out")
    assert chained["steps"] == 2 and "a chain of 2 adapters" in capsys.readouterr().err
    steps = ["--adapter", PAIR, "--adapter", "lab/bc"]
    report_of(tmp_path, "chain", "--bank", tmp_path / "bank", *steps, "--out", tmp_path / "again")
    expected = chain(bank, [PumaAdapter.from_pretrained(name) for name in (PAIR, "lab/bc")]).prompts
    for name in ("out", "again"):
        assert np.array_equal(PromptBank.from_pretrained(tmp_path / name).prompts, expected)

    info = report_of(tmp_path, "info", PAIR)
    assert info["kind"] == "adapter" and info["target"]["model_id"] == "org/b"  # type: ignore[index]
    assert info["published"]["license"] == "apache-2.0" and info["published"]["loss"] == pytest.approx(0.05)  # type: ignore[index]


def test_card_gathers_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path, loss=None)
    AdapterFacts(training=Training(3, 9)).write(path)
    main(["card", path, "--overwrite"])
    evaluated = {"rows": 7, "users": 3, "metrics": {"rmse": 1.0}, "baselines": {"user_mean": {"rmse": 1.2}}}
    sides = {"metric": "rmse", "own": 1.0, "mean": 1.1, "shuffled": 1.3, "rows": 7}
    files = {
        "m": evaluated,
        "s": {**evaluated, "metrics": {"rmse": 0.9}},
        "c": {"source": sides, "target": sides, "users": 3},
    }
    for name, data in files.items():
        (tmp_path / name).write_text(json.dumps(data))
    reports = ["--evaluation", tmp_path / "m", "--source-evaluation", tmp_path / "s", "--comparison", tmp_path / "c"]
    assert "--dataset" in error_of(capsys, "card", path, *reports, status=2)
    report_of(tmp_path, "card", path, *reports, "--dataset", "films", "--selection", "puma", "--trained-on", "films")
    text = Path(path, "README.md").read_text()
    for part in ("`films`", "7 rows of 3 users", "1.2000", "0.9000", "chosen by `puma`", ": 1.00."):
        assert part in text, part
    facts = AdapterFacts.read(path)
    assert facts is not None and len(facts.evaluations) == 2 and facts.loss == pytest.approx(1 / 0.9 - 1)


def test_card_adds_to_the_facts_it_has(tmp_path: Path) -> None:
    path = folder(tmp_path, loss=0.05)
    report_of(tmp_path, "card", path, "--license", "mit", "--intended-use", "Films.")
    text = Path(path, "README.md").read_text()
    facts = AdapterFacts.read(path)
    assert "license: mit" in text and "Films." in text
    assert facts is not None and facts.loss == pytest.approx(0.05)


def test_card_gives_the_models_other_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path)
    report_of(tmp_path, "card", path, "--source", "new/a", "--target", "new/b")
    adapter = PumaAdapter.from_pretrained(path)
    assert [adapter.config.sources[0].model_id, adapter.config.target.model_id] == ["new/a", "new/b"]
    assert "`new/a`" in Path(path, "README.md").read_text()
    assert "2 times" in error_of(capsys, "card", path, "--source", "x", "--source", "y", status=2)


def test_card_refuses_what_is_no_license(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path)
    assert "identifier" in error_of(capsys, "card", path, "--license", "do what you want", status=2)


def test_a_card_that_was_edited_is_published_and_not_replaced(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(tmp_path)
    Path(path, "README.md").write_text("# Mine\n")
    assert "--overwrite" in error_of(capsys, "card", path, "--license", "mit", status=2)
    login("alice")
    assert report_of(tmp_path, "push", path)["repo_id"] == PAIR
    assert "# Mine" in ModelCard.load(PAIR).text
    report_of(tmp_path, "card", path, "--overwrite")
    assert "# Mine" not in Path(path, "README.md").read_text()


def test_failures_are_one_line(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_retries: None
) -> None:
    path = folder(tmp_path)
    make_bank(3).save_pretrained(tmp_path / "bank")
    assert "log in" in error_of(capsys, "push", path)
    login("bob")
    assert "right" in error_of(capsys, "push", path, "--namespace", "lab")
    assert "right" in error_of(capsys, "push", path, "alice/adapter")
    assert "namespace" in error_of(capsys, "push", path, "x/y", "--namespace", "lab", status=2)
    assert "no default name" in error_of(capsys, "push", tmp_path / "bank", status=2)
    assert "no folder" in error_of(capsys, "push", tmp_path / "none")
    assert "no folder" in error_of(capsys, "card", tmp_path / "none")
    assert "push to" in error_of(capsys, "push", path, "a--b", status=2)
    assert "no such repository" in error_of(capsys, "info", "alice/none")
    assert "it is not a folder" in error_of(capsys, "info", "/nowhere/at/all")
    assert "no chain" in error_of(capsys, "route", "org/a", "org/b")
    assert "no chain" in error_of(capsys, "chain", "--bank", tmp_path / "bank", "--to", "x", "--out", tmp_path / "out")
    both = ["--bank", tmp_path / "bank", "--bank", tmp_path / "bank"]
    assert "one bank" in error_of(capsys, "chain", *both, "--to", "x", "--out", tmp_path / "out", status=2)
    login("alice")
    assert main(["push", path, "--private"]) == 0
    login("bob")
    hub.empty_cache()
    assert "private" in error_of(capsys, "info", PAIR)
    assert main(["search"]) == 0 and "no such adapter is published" in capsys.readouterr().out
    hub.fail(429, path_contains="/api/models?", times=None, headers={"Retry-After": "1"})
    assert "too many requests" in error_of(capsys, "search")
    hub.clear_faults()
    hub.drop(path_contains="/repos/create", times=None)
    assert "cannot be reached" in error_of(capsys, "push", path)
    assert not (tmp_path / "out").exists()


def test_folders_ids_are_told_and_corrected(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    make_adapter(sources=[ModelSpec("/models/a", 32)], target=SPECS["b"]).save_pretrained(tmp_path / "adapter")
    report_of(tmp_path, "push", tmp_path / "adapter")
    assert "named by a folder" in caplog.text
    caplog.clear()
    report_of(tmp_path, "card", tmp_path / "adapter", "--source", "org/a")
    assert report_of(tmp_path, "push", tmp_path / "adapter")["repo_id"] == PAIR and "folder" not in caplog.text


def test_search_imports_nothing_heavy(hub: HubServer) -> None:
    code = "import sys; from puma_hub.cli.main import main; assert main(['search', '--source', 'org/a']) == 0\n"
    code += "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
