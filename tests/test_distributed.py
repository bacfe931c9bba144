"""Two processes train what one process trains with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puma_hub import PersonalizedLM, PromptBank, PumaAdapter, PumaConfig
from puma_hub.cli.main import main
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from tests.two_processes import stopped

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, a bank of each kind, an adapter and ratings."""
    folder = tmp_path_factory.mktemp("place")
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(folder / family)
        make_tokenizer().save_pretrained(folder / family)
    make_interactions(users=8, rows=10).to_csv(folder / "rows.csv", index=False)
    lm = PersonalizedLM.from_pretrained(folder / "gemma3")
    torch.manual_seed(0)
    source = make_bank(8)
    PumaAdapter(PumaConfig(sources=[source.model], target=lm.spec, hidden_size=48)).save_pretrained(folder / "adapter")
    source.save_pretrained(folder / "bank", max_shard_size=400)
    return folder


def training(place: Path, out: Path, batch: int) -> list[list[str]]:
    """Commands that fit prompts, and train an adapter."""
    rows = ["--interactions", str(place / "rows.csv"), "--epochs", "2", "--batch-size", str(batch)]
    rows += ["--validation-share", "0"]
    bank, adapter = ["--bank", str(place / "bank"), "--architecture", "linear"], ["--out", str(out / "m")]
    return [
        ["fit", "--model", str(place / "llama"), "--out", str(out), *rows],
        ["train", "--target", str(place / "llama"), *bank, *adapter, *rows],
    ]


def migrating(place: Path, out: Path) -> list[list[str]]:
    """Commands that migrate the bank, and evaluate what comes out."""
    given = ["--adapter", str(place / "adapter"), "--bank", str(place / "bank")]
    scored = ["--model", str(place / "gemma3"), "--interactions", str(place / "rows.csv"), "--controls"]
    return [
        ["migrate", *given, "--out", str(out)],
        ["evaluate", *scored, "--bank", str(out), "--json", f"{out}.json"],
    ]


@pytest.fixture(scope="module")
def both(place: Path) -> Callable[[str], dict[str, str]]:
    """What both processes said in a part, on ``out`` and ``err``; all parts are run by the same two processes."""
    plan: list[Any] = [
        *(["trained", "command", command] for command in training(place, place / "two", 16)),
        *(["migrated", "command", command] for command in migrating(place, place / "of-2")),
        ["stopped", "stopped", [2, str(place / "stopped-2")]],
        ["counted", "counted", []],
        ["broken", "broken", []],  # the last one: if it fails, both hang
    ]
    (place / "plan.json").write_text(json.dumps(plan))
    (place / "said").mkdir()
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "tests.two_processes", str(place)]
    failed = ""
    try:
        # gloo sometimes aborts while it is torn down, after the work is done: what counts is what is left.
        failed = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300).stderr[-3000:]
    except subprocess.TimeoutExpired:
        failed = "both were stopped after 300 s"

    def said(part: str) -> dict[str, str]:
        assert (place / "said" / f"{part}-0.out").exists(), failed
        ends = {end: [place / "said" / f"{part}-{process}.{end}" for process in (0, 1)] for end in ("out", "err")}
        return {end: "".join(path.read_text() for path in paths if path.exists()) for end, paths in ends.items()}

    return said


def test_what_one_process_cannot_compute_stops_both(both: Callable[[str], dict[str, str]]) -> None:
    said = both("broken")
    for trainer in ("PromptTrainer", "AdapterTrainer"):
        for process in (0, 1):
            told = f"process {process}, {trainer}: at step 3 the answers of 8 of 16 rows are NaN or infinite"
            assert told in said["out"], said


def test_processes_accumulate_alike_and_stop_together(
    place: Path, both: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    said = both("stopped")
    stopped(1, str(tmp_path / "stopped-1"))
    assert (place / "stopped-2-1").exists(), said
    files = (tmp_path / "stopped-1-0", place / "stopped-2-0", place / "stopped-2-1")
    one, first, second = (torch.load(file, weights_only=True) for file in files)
    assert torch.equal(first, second) and torch.allclose(one, first, atol=1e-3) and one.std(0).max() > 5e-3


def test_two_processes_migrate_and_evaluate_as_one(
    place: Path,
    both: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = both("migrated")
    assert [main(command) for command in migrating(place, place / "of-1")] == [0, 0]
    assert (place / "of-2.json").exists() and "Error" not in said["err"], said
    assert said["out"].count("PromptBank(8 users") == 1 and said["out"].count("rows of 8 users") == 1, said
    banks = [PromptBank.from_pretrained(place / name) for name in ("of-1", "of-2")]
    assert banks[0].user_ids == banks[1].user_ids == sorted(make_bank(8).user_ids)
    assert banks[0].prompts.tobytes() == banks[1].prompts.tobytes()
    assert not [path.name for path in place.iterdir() if path.name.startswith(".")]
    one, two = (json.loads((place / f"of-{number}.json").read_text()) for number in (1, 2))
    assert one["rows"] == two["rows"] and one["baselines"] == two["baselines"]
    for name in ("rmse", "mae"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-6)
    assert two["controls"]["shuffled"] == pytest.approx(one["controls"]["shuffled"], rel=1e-6)
    # One of two processes takes a share already.
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([*migrating(place, place / "of-2")[0], "--shard", "1/2"]) == 2
    assert "leave --shard, --since and --engine out" in capsys.readouterr().err


def test_processes_score_all_rows_once(both: Callable[[str], dict[str, str]]) -> None:
    """Each process scores its own batches, none those of the other."""
    said = both("counted")
    assert "process 0 scored 48 of 80 rows" in said["out"] and "process 1 scored 32 of 80 rows" in said["out"], said
    assert said["out"].count("weights are spread over processes (FSDP") == 2, said


def test_two_processes_equal_one(place: Path, both: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    said = both("trained")
    assert "Error" not in said["err"], said
    assert [main(command) for command in training(place, tmp_path, 32)] == [0, 0]
    places = (tmp_path, place / "two")
    banks = [PromptBank.from_pretrained(folder / "bank").prompts for folder in places]
    assert np.abs(banks[0] - banks[1]).max() < 1e-3
    offsets = [prompts - prompts.mean(axis=0) for prompts in banks]
    assert np.abs(offsets[0] - offsets[1]).max() < 0.05 * np.abs(offsets[0]).max() > 0
    weights = [PumaAdapter.from_pretrained(folder / "m" / "adapter").state_dict() for folder in places]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-3, name
