"""A full disk and a folder that may not be written: a clear error, and nothing half written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puma_hub import errors as e
from tests.bad_input import Place

# What writes, by name; run in a process of its own whose files cannot grow beyond a limit, as on a full disk.
WRITERS = {
    "bank": "make_bank(400).save_pretrained(out)",
    "adapter": "PumaAdapter(PumaConfig(sources=[spec], target=spec)).save_pretrained(out)",
    "checkpoint": (
        "PromptTrainer(PersonalizedLM(make_model('llama'), make_tokenizer()), make_interactions(users=80),"
        " PumaTrainingArguments(output_dir=str(out), num_train_epochs=1, disable_tqdm=True)).train()"
    ),
}
SCRIPT = """
import resource, sys
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from puma_hub import *
out, spec = sys.argv[1], ModelSpec("m", 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    {}
except PumaHubError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(writer: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT.format(WRITERS[writer]), str(tmp_path / "out"), "16000"]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.stdout.startswith("StorageError cannot write"), done.stdout + done.stderr[-1500:]
    assert "free space" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
