"""Adapters on banks they were not trained on: every adapter with every bank, users and seeds apart.

Banks and adapters are kept in ``--out``, so that the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaTrainingArguments,
    select_users,
)
from puma_hub.data import chronological_split, most_recent, of_users, rows_by_user
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.movielens import read_movielens
from puma_hub.demo.fetch import fetch
from puma_hub.demo.settings import compute_dtype
from puma_hub.errors import MismatchError
from puma_hub.evaluation import calibrate, rating_baselines
from puma_hub.evaluation.compare import controls_of, derangement
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.tasks.metrics import rmse
from puma_hub.training import with_source_predictions
from puma_hub.training.teacher import NOISE

SHARE, RECENT_ROWS = 0.18, 18  # as in the demo
CALIBRATION_ROWS = 500
DRAWS = 1000


@dataclass(frozen=True)
class Training:
    """How one source bank is trained; each on users of its own."""

    name: str
    told: str
    arguments: dict[str, Any]
    has_adapter: bool = True


TRAININGS = (
    Training("1", "defaults, seed 1", {"seed": 1}),
    Training("2", "defaults, seed 2", {"seed": 2}),
    Training("3", "seed 3, penalty 0.15 in place of 0.05", {"seed": 3, "offset_penalty": 0.15}),
    Training("4", "seed 4, independent prompts", {"seed": 4, "prompt_method": "independent"}, False),
)


def split_users(users: int) -> dict[str, datasets.DatasetDict]:
    """Interactions of each training's own users; independent prompts take five times as long, so there are fewer."""
    everybody = read_movielens(fetch("movielens-100k"))
    names = sorted(rows_by_user(everybody))
    order = np.random.default_rng(0).permutation(len(names))
    parts = {}
    for number, training in enumerate(TRAININGS):
        count = users if training.has_adapter else users // 3
        chosen = [names[row] for row in order[number * users : number * users + count]]
        rows = chronological_split(most_recent(of_users(everybody, chosen), 40))
        parts[training.name] = with_item_statistics(rows)
    return parts


def load(name: str, model_id: str, dtype: str) -> PersonalizedLM:
    return PersonalizedLM.from_pretrained(str(fetch(name)), dtype=compute_dtype(dtype), model_id=model_id)


def train_bank(lm: PersonalizedLM, training: Training, rows: datasets.DatasetDict, out: Path) -> PromptBank:
    folder = out / f"bank-{training.name}"
    if not folder.is_dir():
        arguments = PumaTrainingArguments(output_dir=str(out / f"work-bank-{training.name}"), **training.arguments)
        PromptTrainer(lm, rows["train"], arguments).train().save_pretrained(folder)
    return PromptBank.from_pretrained(folder)


def asked(lm: PersonalizedLM, bank: PromptBank, rows: datasets.DatasetDict, noise: float) -> datasets.Dataset:
    """The rows an adapter learns from, with what the source LLM predicts for them."""
    chosen = select_users(bank, rows["train"], budget=int(len(bank) * SHARE))
    recent = most_recent(of_users(rows["train"], chosen), RECENT_ROWS)
    return with_source_predictions(lm, bank, recent, noise=noise)


def train_adapter(lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset, name: str, out: Path) -> PumaAdapter:
    folder = out / f"adapter-{name}"
    if not folder.is_dir():
        arguments = PumaTrainingArguments(validation_share=0.0, output_dir=str(out / f"work-adapter-{name}"))
        AdapterTrainer(lm, bank, rows, arguments).train().save_pretrained(folder)
    adapter: PumaAdapter = PumaAdapter.from_pretrained(folder)
    return adapter


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def show(found: dict[str, Any]) -> list[str]:
    return [f"{found[name]:.4f}" for name in ("own", "mean", "shuffled")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=270, help="of each training; the independent one has a third")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--noise", type=float, default=NOISE, help="on the prompts the teacher asks with, in spreads")
    parser.add_argument("--out", default="other-banks")
    args = parser.parse_args()
    out = Path(args.out)
    parts = split_users(args.users)

    source_lm = load("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", args.dtype)
    banks, taught, told, before = {}, {}, {}, {}
    print(line(["bank", "users", "trained with", "own", "mean", "shuffled", "user mean", "user + item bias"]))
    print("|---" * 8 + "|")
    for training in TRAININGS:
        name, rows = training.name, parts[training.name]
        banks[name] = bank = train_bank(source_lm, training, rows, out)
        held_out = HeldOut.build(source_lm, bank, rows["validation"])
        before[name] = controls_of(held_out)
        plain = rating_baselines(rows["train"], held_out.rows)
        errors = [rmse(plain[key], held_out.labels) for key in ("user_mean", "user_item_bias")]
        cells = [name, str(len(bank)), training.told, *show(before[name]), *(f"{error:.4f}" for error in errors)]
        print(line(cells), flush=True)
        # What the head of a migrated bank is calibrated by: the source's predictions for training rows, no labels.
        few = rows["train"].shuffle(seed=0).select(range(min(CALIBRATION_ROWS, len(rows["train"]))))
        told[name] = with_source_predictions(source_lm, bank, few, noise=0.0)
        if training.has_adapter:
            taught[name] = asked(source_lm, bank, rows, args.noise)
    del source_lm, held_out

    target_lm = load("gemma-3-270m", "google/gemma-3-270m", args.dtype)
    ways = ("as migrated", "calibrated by the source's predictions", "without its sensitivity", "by the adapter's mean")
    columns = ["adapter of bank", "on bank", *(f"{way}: own, mean, shuffled; retention" for way in ways)]
    print("\n" + line(columns) + "\n" + "|---" * len(columns) + "|")
    gains: dict[tuple[str, str], tuple[np.ndarray, ...]] = {}
    for name, rows in taught.items():
        adapter = train_adapter(target_lm, banks[name], rows, name, out)
        for bank_name, bank in banks.items():
            moved = adapter.migrate(bank)
            predictions, labels = three_ways(target_lm, moved, parts[bank_name]["validation"])
            _, found = calibrate(target_lm, moved, told[bank_name])
            sides = [predictions, [found.level + found.slope * predicted for predicted in predictions]]
            last = ""
            if name != bank_name:
                assert bank.statistics is not None
                unaligned = adapter.migrate(bank, mean=bank.statistics.mean)
                sides.append(three_ways(target_lm, unaligned, parts[bank_name]["validation"])[0])
                try:
                    by_other_mean = adapter.migrate(bank, mean="adapter")
                    sides.append(three_ways(target_lm, by_other_mean, parts[bank_name]["validation"])[0])
                except MismatchError:
                    last = "refused: prompts lie absurdly far from that mean"
            cells = [shown_side(side, labels, before[bank_name]["gain"]) for side in sides]
            cells += [last] * (len(ways) - len(cells))
            print(line([name, bank_name, *cells]), flush=True)
            users = np.array(parts[bank_name]["validation"]["user_id"][:])
            gains[name, bank_name] = users, np.square(predictions[1] - labels), np.square(predictions[0] - labels)

    others = [training.name for training in TRAININGS if training.has_adapter]
    columns = ["adapter of bank", *(f"on bank {name}" for name in others)]
    print("\nRetention over that of the bank's own adapter, and its standard error over users:\n")
    print(line(columns) + "\n" + "|---" * len(columns) + "|")
    for name in taught:
        shares = [shown_share(gains[name, other], gains[other, other]) if name != other else "1" for other in others]
        print(line([name, *shares]), flush=True)


def shown_share(adapter: tuple[np.ndarray, ...], own_adapter: tuple[np.ndarray, ...]) -> str:
    """The gain of one adapter over another's on the same rows; users are drawn anew for the standard error."""
    users, row_user = np.unique(adapter[0], return_inverse=True)

    def share(weights: np.ndarray) -> float:
        errors = [np.sqrt(np.average(part, weights=weights)) for part in (*adapter[1:], *own_adapter[1:])]
        return float((errors[0] - errors[1]) / (errors[2] - errors[3]))

    random = np.random.default_rng(0)
    draws = [np.bincount(random.integers(len(users), size=len(users)), minlength=len(users)) for _ in range(DRAWS)]
    spread = np.std([share(draw[row_user].astype(float)) for draw in draws])
    return f"{share(np.ones(len(row_user))):.2f} ± {spread:.2f}"


def three_ways(lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset) -> tuple[list[np.ndarray], np.ndarray]:
    """Predictions with own, mean and shuffled prompts, and the labels."""
    held_out = HeldOut.build(lm, bank, rows)
    mean = bank.prompts.mean(0, keepdims=True)
    others = bank.prompts[derangement(len(bank), seed=42)]
    shuffled = held_out.predict(others, bank.rows(held_out.users))
    return [held_out.own, held_out.predict(mean, np.zeros(len(held_out.labels))), shuffled], held_out.labels


def shown_side(predictions: list[np.ndarray], labels: np.ndarray, gain: float) -> str:
    own, mean, shuffled = (rmse(predicted, labels) for predicted in predictions)
    return f"{own:.4f}, {mean:.4f}, {shuffled:.4f}; {(mean - own) / gain:.2f}"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
