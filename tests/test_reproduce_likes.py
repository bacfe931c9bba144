"""Experiments on clicks that were made of ratings, compared by AUC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puma_hub import LikeTask, PersonalizedLM
from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from puma_hub.evaluation import controls
from puma_hub.reproduce.config import load_config
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.store import Store
from tests.reproduced import NEWCOMERS, USERS, make_place


def test_controls_by_auc(tmp_path: Path) -> None:
    data = {"name": str(tmp_path / "rows.csv"), "users": USERS, "newcomers": NEWCOMERS, "likes_from": 4.0}
    path = make_place(tmp_path, task="like", metric="auc", data=data, seeds=[1])
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert main(["reproduce", "controls", "--config", str(path), "--out", str(out), "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert any("Figures are AUC" in note for note in told["notes"])
    plan, store = Plan.of(load_config(path), 1), Store(out)
    source = store.read(plan.bank(plan.config.source))
    assert source.provenance.task == LikeTask() and source.head is not None
    unseen = sorted({*source.user_ids} - {*store.read(plan.selection(plan.bank(plan.config.source)))})
    lm = PersonalizedLM.from_pretrained(plan.config.source, task=LikeTask())
    rows = load_interactions(tmp_path / "rows.csv", task=LikeTask(), users=USERS, likes_from=4, seed=1)
    expected = controls(lm, source, rows["validation"], users=unseen, seed=1)["by_metric"]["auc"]
    for row, value in expected.items():
        assert told["figures"][row]["source"]["seeds"]["1"] == pytest.approx(value, rel=1e-6)
