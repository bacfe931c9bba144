"""Peak memory as users grow: of opening a bank, choosing users, migrating, and training prompts and an adapter.

    python benchmarks/memory.py --out memory.png

Banks and rows are random. Trainings run on a random Llama of two layers, so that their memory is that of users and rows
and not that of an LLM; they have fewer users, since they take longer. Each figure comes from a process of its own, and
``import`` is what a process takes that does nothing. Needs matplotlib, and fetches a tokenizer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from puma_hub import PersonalizedLM, PromptBank

CASES = {
    "import": (50_000, 100_000, 200_000),
    "open": (50_000, 100_000, 200_000),
    "select": (50_000, 100_000, 200_000),
    "migrate": (50_000, 100_000, 200_000),
    "fit": (2_000, 4_000, 8_000),
    "train": (2_000, 4_000, 8_000),
}
SIZE, ROWS_A_USER, ITEMS = 576, 4, 100
_TRAINED = ("fit", "train")


def random_bank(users: int, **known: Any) -> PromptBank:
    import numpy as np

    from puma_hub import ModelSpec, PromptBank

    prompts = np.random.default_rng(0).standard_normal((users, 1, SIZE), dtype=np.float32)
    prompts.setflags(write=False)  # so that the bank takes it without a copy
    spec = known.pop("model", None) or ModelSpec("some/model", SIZE)
    return PromptBank.from_arrays([f"user-{number:09d}" for number in range(users)], prompts, spec, **known)


def random_rows(users: int) -> Dataset:
    import datasets
    import numpy as np

    random = np.random.default_rng(1)
    owners = np.repeat(np.arange(users), ROWS_A_USER)
    items = random.integers(0, ITEMS, len(owners))
    return datasets.Dataset.from_dict(
        {
            "user_id": [f"user-{owner:09d}" for owner in owners],
            "item_id": [f"item-{item}" for item in items],
            "item_text": [f"The film number {item}" for item in items],
            "label": random.integers(1, 6, len(owners)).astype(float),
        }
    )


def small_lm() -> PersonalizedLM:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from puma_hub import PersonalizedLM
    from puma_hub.demo.fetch import fetch

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(fetch("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=SIZE, intermediate_size=256, num_hidden_layers=2, num_attention_heads=9
    )
    return PersonalizedLM(LlamaForCausalLM(config), tokenizer, model_id="random/llama")


def run(case: str, folder: Path) -> None:
    """What is measured. What it needs was written by :func:`prepare`."""
    import datasets

    from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, select_users
    from puma_hub.migration import migrate_to

    if case == "import":
        return
    if case in _TRAINED:
        train(case, folder)
        return
    bank = PromptBank.from_pretrained(folder / "bank")
    if case == "select":
        select_users(bank, datasets.load_from_disk(str(folder / "rows")), "puma", 2000)
    elif case == "migrate":
        adapter = PumaAdapter(PumaConfig(sources=[bank.model], target=ModelSpec("another/model", 640)))
        migrate_to(folder / "migrated", adapter, bank)


def train(case: str, folder: Path) -> None:
    import datasets

    from puma_hub import AdapterTrainer, PromptBank, PromptTrainer, PumaTrainingArguments

    lm, rows = small_lm(), datasets.load_from_disk(str(folder / "rows"))
    args = PumaTrainingArguments(num_train_epochs=1, validation_share=0.0, disable_tqdm=True)
    if case == "fit":
        PromptTrainer(lm, rows, args).train()
    else:
        AdapterTrainer(lm, PromptBank.from_pretrained(folder / "bank"), rows, args).train()


def prepare(case: str, users: int, folder: Path) -> None:
    if case in ("select", *_TRAINED):
        random_rows(users).save_to_disk(str(folder / "rows"))
    if case == "train":
        lm = small_lm()
        bank = random_bank(users, model=lm.spec, template=lm.template.text, task=lm.task)
        bank.save_pretrained(folder / "bank")
    elif case not in ("import", "fit"):
        random_bank(users).save_pretrained(folder / "bank")


def peak_memory() -> int:
    """Bytes of this process at most, or of what started it if that was larger: so that is kept small."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_own_process(step: str, case: str, users: int, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--case", case, "--users", str(users), "--folder", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def plot(found: dict[str, dict[int, float]], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for case, by_users in found.items():
        axes.plot([*by_users], [*by_users.values()], marker="o", label=case)
    axes.set(xlabel="users", ylabel="GB at most", xscale="log", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--out", metavar="FILE", help="a picture")
    for hidden in ("--step", "--case", "--users", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        started = time.perf_counter()
        if args.step == "prepare":
            prepare(args.case, int(args.users), Path(args.folder))
        else:
            run(args.case, Path(args.folder))
        print(json.dumps({"seconds": time.perf_counter() - started, "GB": peak_memory() / 1e9}))
        return
    found: dict[str, dict[int, float]] = {}
    for case in args.cases:
        for users in CASES[case]:
            with tempfile.TemporaryDirectory() as folder:
                in_own_process("prepare", case, users, folder)
                measured = in_own_process("run", case, users, folder)
            found.setdefault(case, {})[users] = measured["GB"]
            print(f"{case:8} {users:8,} users: {measured['GB']:.2f} GB, {measured['seconds']:.1f} s", flush=True)
    if args.out:
        plot(found, args.out)


if __name__ == "__main__":
    main()
