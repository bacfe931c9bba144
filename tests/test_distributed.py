"""Two processes train what one process trains with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import PersonalizedLM, PromptBank, PumaAdapter, PumaConfig
from puma_hub.cli.main import main
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer

ROOT = Path(__file__).parents[1]


def run(processes: int, batch: int, place: Path, out: Path) -> None:
    """Fit and train in so many processes."""
    rows = ["--interactions", str(place / "rows.csv"), "--epochs", "2", "--batch-size", str(batch)]
    rows += ["--validation-share", "0"]
    bank, adapter = ["--bank", str(place / "bank"), "--architecture", "linear"], ["--out", str(out / "m")]
    commands = [
        ["fit", "--model", str(place / "llama"), "--out", str(out), *rows],
        ["train", "--target", str(place / "llama"), *bank, *adapter, *rows],
    ]
    if processes == 1:
        assert [main(command) for command in commands] == [0, 0]
        return
    done = together(place, *commands)
    # gloo sometimes aborts while it is torn down, after the work is done.
    assert "Error" not in done.stderr, done.stderr[-3000:]
    assert (out / "bank").exists() and (out / "m" / "adapter").exists(), done.stderr[-3000:]


BROKEN = """
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer  # first: see the module
from dataclasses import replace
from accelerate import PartialState
from puma_hub import AdapterTrainer, PersonalizedLM, PromptTrainer, PumaTrainingArguments
from puma_hub.errors import PumaHubError

state = PartialState(cpu=True)
assert state.num_processes == 2
lm = PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")
args = PumaTrainingArguments(num_train_epochs=2, per_device_train_batch_size=8, disable_tqdm=True, validation_share=0.0)
rows = make_interactions()
trainers = [PromptTrainer(lm, rows, args), AdapterTrainer(lm, make_bank(), rows, replace(args, start_rows=0))]
right = lm.logits
for trainer in trainers:
    steps = []

    def logits(prompts, rows):
        steps.append(len(rows))
        found = right(prompts, rows)
        return found * float("nan") if state.process_index == 1 and len(steps) == 3 else found

    lm.logits = logits
    try:
        trainer.train()
    except PumaHubError as error:
        print(f"process {state.process_index}, {type(trainer).__name__}: {error}", flush=True)
    state.wait_for_everyone()
"""


def test_what_one_process_cannot_compute_stops_both(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BROKEN)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    # Where one stops alone, the other waits for it for ever.
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
    for trainer in ("PromptTrainer", "AdapterTrainer"):
        for process in (0, 1):
            told = f"process {process}, {trainer}: at step 3 the answers of 8 of 16 rows are NaN or infinite"
            assert told in done.stdout, done.stdout + done.stderr[-3000:]


STOPPED = """
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer  # first: see the module
import sys
import torch
from accelerate import PartialState
from transformers import TrainerCallback
from puma_hub import PersonalizedLM, PromptTrainer, PumaTrainingArguments

class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **given):
        control.should_training_stop = state.global_step == 4 and PartialState().process_index == processes - 1
        return control

processes = int(sys.argv[1])
assert PartialState(cpu=True).num_processes == processes
lm = PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")
args = PumaTrainingArguments(
    num_train_epochs=9, per_device_train_batch_size=16 // processes, gradient_accumulation_steps=2, disable_tqdm=True,
    validation_share=0.0, learning_rate=0.1, prompt_method="shared",
)
trainer = PromptTrainer(lm, make_interactions(), args, callbacks=[Stops])
bank = trainer.train()
assert trainer.report["epochs"] == 2, trainer.report["epochs"]
torch.save(torch.from_numpy(bank.prompts.copy()), f"{sys.argv[2]}-{PartialState().process_index}")
"""


def test_processes_accumulate_alike_and_stop_together(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for processes, start in ((1, [sys.executable]), (2, launch)):
        command = [*start, str(script), str(processes), str(tmp_path / f"of-{processes}")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (tmp_path / f"of-{processes}-0").exists(), done.stderr[-3000:]
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("of-1-0", "of-2-0", "of-2-1"))
    assert torch.equal(first, second) and torch.allclose(one, first, atol=1e-3) and one.std(0).max() > 5e-3


TOGETHER = """
import json, sys
from accelerate import PartialState
from puma_hub.cli.main import main
for command in json.loads(sys.argv[2]):
    status = main(command)
    if status:
        break
assert PartialState().num_processes == int(sys.argv[1]), PartialState()
sys.exit(status)
"""


def together(place: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Run commands one after another in the same two processes."""
    script = place / "together.py"
    script.write_text(TOGETHER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, str(script), "2", json.dumps(commands)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_migrate_and_evaluate_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model("gemma3").save_pretrained(tmp_path / "gemma")
    make_tokenizer().save_pretrained(tmp_path / "gemma")
    rows = make_interactions(users=8, rows=10)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    lm = PersonalizedLM.from_pretrained(tmp_path / "gemma")
    torch.manual_seed(0)
    source = make_bank(8)
    adapter = PumaAdapter(PumaConfig(sources=[source.model], target=lm.spec, hidden_size=48))
    adapter.save_pretrained(tmp_path / "adapter")
    source.save_pretrained(tmp_path / "bank", max_shard_size=400)
    given = ["--adapter", str(tmp_path / "adapter"), "--bank", str(tmp_path / "bank")]
    scored = ["--model", str(tmp_path / "gemma"), "--interactions", str(tmp_path / "rows.csv"), "--controls"]
    commands = {
        number: (
            ["migrate", *given, "--out", str(tmp_path / f"of-{number}")],
            [
                "evaluate",
                *scored,
                "--bank",
                str(tmp_path / f"of-{number}"),
                "--json",
                str(tmp_path / f"of-{number}.json"),
            ],
        )
        for number in (1, 2)
    }
    assert [main(command) for command in commands[1]] == [0, 0]
    done = together(tmp_path, *commands[2])
    assert (tmp_path / "of-2.json").exists() and "Error" not in done.stderr, done.stderr[-3000:]
    assert done.stdout.count("PromptBank(8 users") == 1 and done.stdout.count("rows of 8 users") == 1, done.stdout
    banks = [PromptBank.from_pretrained(tmp_path / name) for name in ("of-1", "of-2")]
    assert banks[0].user_ids == banks[1].user_ids == sorted(source.user_ids)
    assert banks[0].prompts.tobytes() == banks[1].prompts.tobytes()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    one, two = (json.loads((tmp_path / f"of-{number}.json").read_text()) for number in (1, 2))
    assert one["rows"] == two["rows"] and one["baselines"] == two["baselines"]
    for name in ("rmse", "mae"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-6)
    assert two["controls"]["shuffled"] == pytest.approx(one["controls"]["shuffled"], rel=1e-6)
    # One of two processes takes a share already.
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([*commands[2][0], "--shard", "1/2"]) == 2
    assert "leave --shard, --since and --engine out" in capsys.readouterr().err


def test_processes_score_all_rows_once(tmp_path: Path) -> None:
    """Each process scores its own batches, none those of the other."""
    script = tmp_path / "script.py"
    script.write_text(COUNTED)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
    assert "process 0 scored 48 of 80 rows" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "process 1 scored 32 of 80 rows" in done.stdout, done.stdout
    assert done.stdout.count("weights are spread over processes (FSDP") == 2, done.stdout


COUNTED = """
from tests.conftest import make_interactions, make_model, make_tokenizer  # first: see the module
import torch
from accelerate import PartialState
from torch.distributed.fsdp import fully_shard
from puma_hub import PersonalizedLM
from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.batches import predict_rows
from puma_hub.scorer.together import scoring_together

state = PartialState(cpu=True)
lm = PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")
rows = make_interactions(users=8, rows=10)
encoded = lm.encode(rows.select_columns(["item_text"]), 1)
torch.manual_seed(0)
prompts, users = torch.randn(80, 1, lm.spec.hidden_size), torch.arange(80)
alone = predict_rows(lm, encoded, prompts, users, 16)
scored, right = [], lm.logits

def logits(prompts, rows):
    scored.append(len(rows))
    return right(prompts, rows)

lm.logits = logits
with scoring_together():
    shared = predict_rows(lm, encoded, prompts, users, 16)
assert torch.equal(alone, shared), (alone - shared).abs().max()
print(f"process {state.process_index} scored {sum(scored)} of {len(shared)} rows", flush=True)
sharded = make_model("llama")
fully_shard(sharded)
try:
    PersonalizedLM(sharded, make_tokenizer())
except UnsupportedModelError as error:
    print(f"process {state.process_index}: {error}", flush=True)
state.wait_for_everyone()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    make_interactions(users=8, rows=10).to_csv(tmp_path / "rows.csv", index=False)
    make_bank(8).save_pretrained(tmp_path / "bank")
    run(1, 32, tmp_path, tmp_path / "one")
    run(2, 16, tmp_path, tmp_path / "two")
    banks = [PromptBank.from_pretrained(tmp_path / name / "bank").prompts for name in ("one", "two")]
    assert np.abs(banks[0] - banks[1]).max() < 1e-3
    offsets = [prompts - prompts.mean(axis=0) for prompts in banks]
    assert np.abs(offsets[0] - offsets[1]).max() < 0.05 * np.abs(offsets[0]).max() > 0
    weights = [PumaAdapter.from_pretrained(tmp_path / name / "m" / "adapter").state_dict() for name in ("one", "two")]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-3, name
