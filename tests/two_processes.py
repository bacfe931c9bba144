"""What tests run in two processes at once: they are started once for all, since starting them takes most of the time.

``python -m torch.distributed.run --nproc_per_node 2 -m tests.two_processes FOLDER`` runs the parts that
``FOLDER/plan.json`` lists, and each process leaves ``FOLDER/said/PART-PROCESS.out`` and ``.err``.
"""

from __future__ import annotations

from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer  # first: see the module

# isort: split
import json
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from puma_hub import AdapterTrainer, PersonalizedLM, PromptTrainer, PumaTrainingArguments
from puma_hub.cli.main import main
from puma_hub.errors import PumaHubError, UnsupportedModelError
from puma_hub.scorer.batches import predict_rows
from puma_hub.scorer.together import scoring_together


def tiny_lm() -> PersonalizedLM:
    return PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")


def command(*arguments: str) -> None:
    """A command of ``puma-hub``."""
    assert main([*arguments]) == 0


def stopped(processes: int, out: str) -> None:
    """The last process stops a training after 4 steps; each keeps its prompts."""

    class Stops(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
            last = PartialState().process_index == processes - 1
            control.should_training_stop = state.global_step == 4 and last
            return control

    assert PartialState(cpu=True).num_processes == processes
    args = PumaTrainingArguments(
        num_train_epochs=9,
        per_device_train_batch_size=16 // processes,
        gradient_accumulation_steps=2,
        disable_tqdm=True,
        validation_share=0.0,
        learning_rate=0.1,
        prompt_method="shared",
    )
    trainer = PromptTrainer(tiny_lm(), make_interactions(), args, callbacks=[Stops()])
    bank = trainer.train()
    assert trainer.report["epochs"] == 2, trainer.report["epochs"]
    torch.save(torch.from_numpy(bank.prompts.copy()), f"{out}-{PartialState().process_index}")


def counted() -> None:
    """How many rows each process scores when they score together."""
    lm, rows = tiny_lm(), make_interactions(users=8, rows=10)
    encoded = lm.encode(rows.select_columns(["item_text"]), 1)
    torch.manual_seed(0)
    prompts, users = torch.randn(80, 1, lm.spec.hidden_size), torch.arange(80)
    alone = predict_rows(lm, encoded, prompts, users, 16)
    scored: list[int] = []
    right = lm.logits

    def logits(prompts: torch.Tensor, rows: Any) -> torch.Tensor:
        scored.append(len(rows))
        return right(prompts, rows)

    lm.logits = logits  # type: ignore[method-assign, assignment]
    with scoring_together():
        shared = predict_rows(lm, encoded, prompts, users, 16)
    assert torch.equal(alone, shared), (alone - shared).abs().max()
    process = PartialState().process_index
    print(f"process {process} scored {sum(scored)} of {len(shared)} rows")
    sharded = make_model("llama")
    fully_shard(sharded)
    try:
        PersonalizedLM(sharded, make_tokenizer())
    except UnsupportedModelError as error:
        print(f"process {process}: {error}")


def broken() -> None:
    """One process gets answers that are NaN, at its third step. Where it stops alone, the other waits for ever."""
    state, lm, rows = PartialState(), tiny_lm(), make_interactions()
    args = PumaTrainingArguments(
        num_train_epochs=2, per_device_train_batch_size=8, disable_tqdm=True, validation_share=0.0
    )
    right = lm.logits
    for trainer in (PromptTrainer(lm, rows, args), AdapterTrainer(lm, make_bank(), rows, replace(args, start_rows=0))):
        steps: list[int] = []

        def logits(prompts: torch.Tensor, rows: Any, steps: list[int] = steps) -> torch.Tensor:
            steps.append(len(rows))
            found = right(prompts, rows)
            return found * float("nan") if state.process_index == 1 and len(steps) == 3 else found

        lm.logits = logits  # type: ignore[method-assign, assignment]
        try:
            trainer.train()
        except PumaHubError as error:
            print(f"process {state.process_index}, {type(trainer).__name__}: {error}")
        state.wait_for_everyone()


PARTS = {"command": command, "stopped": stopped, "counted": counted, "broken": broken}


def run(folder: Path) -> None:
    state = PartialState(cpu=True)
    assert state.num_processes == 2, state
    for name, part, arguments in json.loads((folder / "plan.json").read_text()):
        files = [folder / "said" / f"{name}-{state.process_index}.{end}" for end in ("out", "err")]
        with open(files[0], "a") as out, open(files[1], "a") as err, redirect_stdout(out), redirect_stderr(err):
            try:
                PARTS[part](*arguments)
            except Exception:
                traceback.print_exc()
        state.wait_for_everyone()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
