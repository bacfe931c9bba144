"""The app on what a demo left: what counts as finished, and that its scores are those of the evaluation."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puma_hub import PersonalizedLM, PromptBank
from puma_hub.cli.main import main
from puma_hub.demo.finished import finished_demo
from puma_hub.demo.run import run_demo
from puma_hub.demo.settings import SOURCE_MODEL, TARGET_MODEL, DemoSettings
from puma_hub.errors import ConfigurationError
from puma_hub.space.demo import demo_content
from puma_hub.space.scores import Scores
from tests.conftest import make_model, make_tokenizer
from tests.small_movielens import write_movielens


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoSettings]:
    """A finished demo on tiny models."""
    with pytest.MonkeyPatch.context() as patch:
        movielens = write_movielens(tmp_path_factory.mktemp("movielens"))
        families = {SOURCE_MODEL: "llama", TARGET_MODEL: "gemma3"}

        def load(name: str, *_: Any, device: str | None = None) -> PersonalizedLM:
            return PersonalizedLM(make_model(families[name]), make_tokenizer(), model_id=f"tiny/{families[name]}")

        for module in ("demo.run", "space.demo"):
            patch.setattr(f"puma_hub.{module}.fetch", lambda name, say: movielens)
            patch.setattr(f"puma_hub.{module}.load_model", load)
        settings = DemoSettings(users=12, rows_per_user=10, out=str(tmp_path_factory.mktemp("demo") / "out"))
        run_demo(settings, lambda line: None)
        yield settings


def test_a_finished_demo_is_known(demo: DemoSettings, tmp_path: Path) -> None:
    report = finished_demo(demo)
    assert report is not None and report == json.loads((Path(demo.out) / "report.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    moved = DemoSettings(users=12, rows_per_user=10, out=str(copy))
    assert finished_demo(moved) is not None
    with pytest.raises(ConfigurationError, match=r"users 12, not 13; .*without --ui"):
        finished_demo(DemoSettings(users=13, rows_per_user=9, out=str(copy)))
    assert finished_demo(DemoSettings(out=str(tmp_path / "nothing"))) is None


@pytest.mark.parametrize(
    "lost",
    [
        "report.json",
        "report.html",
        "migration.json",
        "demo.png",
        "adapter/adapter_facts.json",
        "source-bank/bank.json",
    ],
)
def test_a_demo_that_lacks_a_part_is_not_finished(demo: DemoSettings, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    (copy / lost).unlink()
    assert finished_demo(DemoSettings(users=12, rows_per_user=10, out=str(copy))) is None


def test_a_demo_that_a_later_run_began_to_replace_is_not_finished(demo: DemoSettings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    bank = PromptBank.from_pretrained(copy / "source-bank")
    noise = np.random.default_rng(0).normal(size=bank.prompts.shape).astype(np.float32)
    other = PromptBank.from_arrays(bank.user_ids, bank.prompts + noise, bank.model)
    other = PromptBank(other.dataset, bank.provenance, bank.head)
    other.save_pretrained(copy / "source-bank")
    assert finished_demo(DemoSettings(users=12, rows_per_user=10, out=str(copy))) is None


def test_the_demos_content_is_that_of_its_evaluation(demo: DemoSettings) -> None:
    report = finished_demo(demo)
    assert report is not None
    content = demo_content(demo, report, lambda line: None)
    assert content.unseen is not None and len(content.unseen) == 12 - report["users"]["selected"]
    labels = {(user, item): label for user, rated in content.items.labels.items() for item, label in rated.items()}
    assert len(labels) == report["rows"]["validation"]
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    squares: dict[str, list[float]] = {"source": [], "target": []}
    for number, user in enumerate(content.users):
        items = list(content.items.labels.get(user, ()))
        for item, one in zip(items, scores.of(number, items) if items else ()):
            for side, found in squares.items():
                found.append((getattr(one, side).score - labels[user, item]) ** 2)
    assert np.sqrt(np.mean(squares["source"])) == pytest.approx(report["rmse"]["source"], abs=1e-4)
    assert np.sqrt(np.mean(squares["target"])) == pytest.approx(report["rmse"]["migrated"], abs=1e-4)
    assert "| own prompts" in content.report.tables and content.report.picture[:4] == b"\x89PNG"
    assert content.report.page == (Path(demo.out) / "report.html").read_text(encoding="utf-8")


def test_demo_ui_shows_a_finished_demo_and_runs_none(
    demo: DemoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gradio

    pages = []

    def visit(self: Any) -> None:
        with urllib.request.urlopen(f"{self.local_url}config") as answer:
            pages.append(answer.read().decode())
        self.close()

    monkeypatch.setattr(gradio.Blocks, "block_thread", visit)
    command = ["demo", "--users", "12", "--rows-per-user", "10", "--out", demo.out, "--ui"]
    before = (Path(demo.out) / "report.json").stat().st_mtime_ns
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr()
    assert "[1/8]" not in printed.err and "open http://127.0.0.1:" in printed.err
    assert "migrated prompts on the target LLM" in printed.out
    assert (Path(demo.out) / "report.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "report.json").read_text())["users"]["total"] == 12
    (page,) = pages
    assert "llama" in page and "Film 3, Action" in page
    assert all(
        part in page for part in ("puma-picture", "| own prompts", "puma-report", "the adapter never trained on")
    )
    assert main([*command[:-1], "--seed", "7", "--ui"]) == 2  # and the finished demo stays
    assert "seed 42, not 7" in capsys.readouterr().err
