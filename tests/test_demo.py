"""The demo's parts, on small made-up rows and predictions; the whole of it is in test_real_models.py."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from puma_hub import PersonalizedLM, PromptBank, PumaAdapter
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.cli import demo_command
from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from puma_hub.demo import settings as demo_settings
from puma_hub.demo.demo_rows import DemoRows, of_popular_items
from puma_hub.demo.picture import PICTURE, draw
from puma_hub.demo.planned_work import STAGES, planned_work
from puma_hub.demo.quiet import quiet
from puma_hub.demo.run import run_demo
from puma_hub.demo.settings import SOURCE_MODEL, TARGET_MODEL, DemoSettings
from puma_hub.demo.source_side import chosen_users
from puma_hub.demo.stages import Stages
from puma_hub.demo.table import compared, demo_table
from puma_hub.demo.unseen import PAGE, PAGE_DATA
from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.evaluation import migration_report
from puma_hub.evaluation.compare import Controls
from puma_hub.evaluation.pictures import require_own_file
from puma_hub.scorer.tokens import Tokens
from puma_hub.tasks import RatingTask
from tests.small_movielens import USERS, write_movielens


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("movielens"))


def test_a_full_run_has_the_rows_of_load_interactions(movielens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_settings, "FULL", 30)
    settings = DemoSettings(users=30, rows_per_user=12, seed=3)
    rows = DemoRows.load(movielens, settings)
    expected = load_interactions(
        "movielens-100k", folder=movielens, task=RatingTask(), users=30, rows_per_user=12, item_statistics=True, seed=3
    )
    assert settings.items is None
    for name, part in expected.items():
        assert rows.splits[name].to_list() == part.to_list()
    assert rows.others is not None
    others = {*rows.others["train"]["user_id"]}
    assert len(others) == 10 and not others & {*expected["train"]["user_id"]}


def test_a_short_run_keeps_the_items_with_the_most_rows(movielens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_settings, "_POPULAR", 5)
    rows = DemoRows.load(movielens, DemoSettings(users=30))
    assert rows.others is not None
    for part in (*rows.splits.values(), *rows.others.values()):
        assert {*part["item_id"]} <= {"0", "1", "2", "3", "4"}
    ties = datasets.Dataset.from_dict({"item_id": ["c", "a", "b", "b", "a"]})
    assert of_popular_items(ties, 1)["item_id"][:] == ["a", "a"]


def test_nobody_is_left_for_a_bank_apart(movielens: Path) -> None:
    assert DemoRows.load(movielens, DemoSettings(users=USERS - 5)).others is None


def test_the_whole_demo_on_tiny_models(
    movielens: Path, make_lm: Callable[..., PersonalizedLM], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    families = {SOURCE_MODEL: "llama", TARGET_MODEL: "gemma3"}
    filled: dict[str, list[int]] = {family: [] for family in families.values()}

    def load(name: str, settings: DemoSettings, say: Callable[[str], None]) -> PersonalizedLM:
        lm = make_lm(families[name])
        states = lm._cache._forward

        def counted(prefixes: Sequence[Tokens], width: int) -> torch.Tensor:
            filled[families[name]] += map(hash, dict.fromkeys(prefixes))
            return states(prefixes, width)

        monkeypatch.setattr(lm._cache, "_forward", counted)
        return lm

    monkeypatch.setattr("puma_hub.demo.run.fetch", lambda name, say: movielens)
    monkeypatch.setattr("puma_hub.demo.run.load_model", load)
    lines: list[str] = []
    settings = DemoSettings(users=12, rows_per_user=10, out=str(tmp_path / "out"))
    report = run_demo(settings, lines.append)

    assert [line[:5] for line in lines if line.startswith("[")] == [f"[{n}/8]" for n in range(1, 9)]
    for family, prefixes in filled.items():  # no text is read twice, whatever the step
        assert prefixes and len(prefixes) == len(set(prefixes)), family
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"adapter", "source-bank", "migrated-bank", "work", "report.json", PICTURE, PAGE, PAGE_DATA}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["users"] == {"total": 12, "selected": 2} and report["flops"]["adapter"] > 0
    assert f"{report['rmse']['retrained']:.4f}" in demo_table(report)

    facts = AdapterFacts.read(tmp_path / "out" / "adapter")
    assert facts is not None
    all_users, unseen, apart = facts.evaluations
    assert {name: figures["rmse"] for name, figures in all_users.metrics.items()} == report["rmse"]
    assert (all_users.own_source_bank, unseen.own_source_bank, apart.own_source_bank) == (True, True, False)
    for evaluation, told in ((unseen, report["unseen"]), (apart, report["other_bank"])):
        assert evaluation.retention == told["retention"]
        assert evaluation.metrics["source_mean"]["rmse"] == told["source_mean"]

    # The report on the users whom the adapter never saw is that of the banks, scored anew.
    found = json.loads((tmp_path / "out" / PAGE_DATA).read_text())
    source, target = (PromptBank.from_pretrained(tmp_path / "out" / f"{name}-bank") for name in ("source", "migrated"))
    rows = DemoRows.load(movielens, settings).splits
    seen = chosen_users(source, rows["train"], settings)
    lms = [make_lm(family) for family in families.values()]
    adapter = PumaAdapter.from_pretrained(tmp_path / "out" / "adapter")
    again = migration_report(lms[0], source, lms[1], target, rows, trained_users=seen, adapter=adapter)
    assert_alike(found, {**again.data, "cost": {**(again.data["cost"] or {}), "flops": report["flops"]["adapter"]}})
    assert found["users"] == report["unseen"]["users"] and found["cost"]["training"]["users"] == 2
    assert found["retention"] == report["unseen"]["retention"]
    page = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert "the users that the adapter never trained on (those it trained on: 2 left out)" in page
    assert main(["gate", "--report", str(tmp_path / "out" / PAGE_DATA), "--min-users", "9"]) == 0


def assert_alike(found: Any, expected: Any) -> None:
    """The same but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_alike(found[name], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, value in zip(found, expected):
            assert_alike(one, value)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"users": 9}, "at least 10 users, got 9"), ({"models": "disk"}, "'disk'"), ({"dtype": "int8"}, "'int8'")],
)
def test_settings_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DemoSettings(**values)


def test_the_time_left_follows_from_the_work_done() -> None:
    lines: list[str] = []
    now = [0.0]
    stages = Stages(lines.append, dict.fromkeys(STAGES, 10.0), lambda: now[0])
    for name in STAGES:
        with stages.stage(name, name):
            now[0] += 30.0
    assert lines[0] == f"[1/{len(STAGES)}] source_texts"  # nothing is known yet
    assert lines[1].endswith("(about 4 min left)")  # 7 stages of 30 s
    assert lines[-1].endswith("(about 30 s left)")
    assert stages.seconds == dict.fromkeys(STAGES, 30.0)


def test_a_stage_left_out_does_not_count() -> None:
    lines: list[str] = []
    now = [0.0]
    stages = Stages(lines.append, {**dict.fromkeys(STAGES, 1.0), "other_prompts": 0.0}, lambda: now[0])
    with stages.stage("source_texts", ""):
        now[0] += 10.0
    with stages.stage("retraining", ""):
        pass
    assert lines[-1].endswith("(about 60 s left)")  # 6 stages, of 10 s each


def test_nothing_is_estimated_from_a_first_stage_without_much_work() -> None:
    lines: list[str] = []
    now = [0.0]
    stages = Stages(lines.append, {"first": 1.0, "second": 99.0, "third": 100.0}, lambda: now[0])
    for name in ("first", "second", "third"):
        with stages.stage(name, name):
            now[0] += 50.0
    assert lines == ["[1/3] first", "[2/3] second", "[3/3] third (about 2 min left)"]


def test_the_planned_work_counts_each_text_once(movielens: Path) -> None:
    settings = DemoSettings(users=30)
    rows = DemoRows.load(movielens, settings)
    work = planned_work(rows, settings)
    texts = {text for part in rows.splits.values() for text in part["item_text"]}
    assert tuple(work) == STAGES and min(work.values()) > 0
    assert work["source_texts"] / len(texts) == work["target_texts"] / len(
        texts | {*(rows.others or {})["validation"]["item_text"]}
    )


def test_progress_bars_are_off_inside_and_as_before_outside() -> None:
    def fails() -> None:
        with quiet():
            assert datasets.are_progress_bars_disabled() and not transformers_logging.is_progress_bar_enabled()
            raise RuntimeError

    shown = transformers_logging.is_progress_bar_enabled()
    try:
        for switch in (datasets.disable_progress_bars, datasets.enable_progress_bars):
            switch()
            before = datasets.are_progress_bars_disabled()
            with pytest.raises(RuntimeError):
                fails()
            assert datasets.are_progress_bars_disabled() is before
            assert transformers_logging.is_progress_bar_enabled() is shown
    finally:
        datasets.enable_progress_bars()


def _controls(seed: int) -> Controls:
    generator = np.random.default_rng(seed)
    users = [f"u{i // 4}" for i in range(80)]
    predictions = {name: generator.uniform(1, 5, 80) for name in ("own", "mean", "shuffled")}
    return Controls(RatingTask(), users, np.random.default_rng(9).integers(1, 6, 80).astype(float), predictions)


def test_a_users_gain_is_the_difference_of_two_rmse() -> None:
    controls = _controls(1)
    gains = controls.gain_by_user()
    for number in (0, 7, 19):
        rows = slice(4 * number, 4 * number + 4)
        errors = [
            np.sqrt(np.mean((controls.predictions[name][rows] - controls.labels[rows]) ** 2))
            for name in ("mean", "own")
        ]
        assert gains[f"u{number}"] == pytest.approx(errors[0] - errors[1])


@pytest.mark.parametrize("retention", [0.9, None])
def test_the_picture_is_a_png_of_a_sane_size(tmp_path: Path, retention: float | None) -> None:
    names = ("source", "teacher", "migrated", "retrained", "random", "global_mean", "user_mean", "user_item_bias")
    report = {
        "rmse": {name: 1.1 + 0.02 * number for number, name in enumerate(names)},
        "users": {"total": 24},
        "unseen": {"retention": retention},
    }
    assert compared(report) == list(names)  # and no baseline whose package was not installed
    results: Any = SimpleNamespace(
        source=SimpleNamespace(unseen=_controls(1)), target=SimpleNamespace(unseen=_controls(2))
    )
    path = tmp_path / PICTURE
    draw(results, report, path)
    image = path.read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(image[at : at + 4], "big") for at in (16, 20)] == [1320, 510]
    assert 10_000 < len(image) < 300_000
    require_own_file(path)
    draw(results, report, path)


@pytest.mark.parametrize("name", [PICTURE, PAGE, PAGE_DATA, "report.json"])
def test_somebody_elses_file_stays(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"{}" + bytes(1000))
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert f"{name} " in capsys.readouterr().err and (tmp_path / name).read_bytes() == b"{}" + bytes(1000)


def test_somebody_elses_picture_stays(tmp_path: Path) -> None:
    (tmp_path / PICTURE).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    with pytest.raises(StorageError, match="no picture of puma_hub"):
        require_own_file(tmp_path / PICTURE)


def test_what_draws_is_asked_for_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert 'pip install "puma_hub[demo]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_help_says_how_long_it_takes_and_on_what(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"On 2 ordinary cores the default takes \d+ to \d+ minutes", told) and "no GPU" in told
    parser = argparse.ArgumentParser()
    demo_command.add_arguments(parser)
    assert parser.parse_args([]).users == DemoSettings().users
