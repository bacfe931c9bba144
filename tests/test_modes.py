"""Modes of what is written: what the umask leaves, and what was there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puma_hub import ModelSpec, PersonalizedLM, PromptTrainer, PumaAdapter, PumaConfig, PumaTrainingArguments
from puma_hub.storage import new_file, new_folder, write_json
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from tests.test_storage import LAYOUT, fill


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_everything_we_write_heeds_the_umask(tmp_path: Path, umask: int) -> None:
    make_bank().save_pretrained(tmp_path / "deep" / "bank")
    args = PumaTrainingArguments(output_dir=str(tmp_path / "work"), num_train_epochs=1, disable_tqdm=True)
    PromptTrainer(PersonalizedLM(make_model("llama"), make_tokenizer()), make_interactions(2, 4), args).train()
    spec = ModelSpec("m", 8)
    PumaAdapter(PumaConfig(sources=[spec], target=spec)).save_pretrained(tmp_path / "adapter")
    write_json(tmp_path / "report.json", {})
    paths = list(tmp_path.rglob("*"))
    assert len(paths) > 10
    for path in paths:
        assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_what_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    with new_folder(tmp_path / "r", LAYOUT) as staged:
        fill(staged, "data", "extra-1")
    for path, kept in {tmp_path / "r": 0o750, tmp_path / "r/data": 0o640, tmp_path / "r/extra-1": 0o600}.items():
        path.chmod(kept)
    with new_folder(tmp_path / "r", LAYOUT) as staged:
        assert mode(staged) == 0o750
        fill(staged, "data", "extra-1", "extra-2", "parts/1.txt")
    assert mode(tmp_path / "r") == 0o750
    modes = {"data": 0o640, "extra-1": 0o600, "extra-2": 0o640, "parts/1.txt": 0o640}
    assert {name: mode(tmp_path / "r" / name) for name in modes} == modes
    for kept in (0o600, 0o664):
        (tmp_path / "r/data").chmod(kept)
        write_json(tmp_path / "r/data", {})
        assert mode(tmp_path / "r/data") == kept


def test_nobody_else_reads_what_is_being_written(tmp_path: Path) -> None:
    fill(tmp_path, "state").joinpath("state").chmod(0o600)
    with new_file(tmp_path / "state") as path:
        path.write_text("prompts")
        assert mode(path.parent) == 0o700


def test_the_umask_is_never_set(tmp_path: Path) -> None:
    """It is the whole process's: another thread would make its files with the wrong one meanwhile."""
    script = f"""
import os
os.umask = None
from puma_hub.storage import write_json
write_json({str(tmp_path / "a.json")!r}, {{}})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
