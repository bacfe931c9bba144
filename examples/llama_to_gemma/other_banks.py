"""Adapters on banks they were not trained on: every adapter with every bank, users and seeds apart.

Banks and adapters are kept in ``--out``, so that the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

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
from puma_hub.evaluation import baseline_predictions, calibrate
from puma_hub.evaluation.compare import controls_of, derangement
from puma_hub.evaluation.evaluate import HeldOut
from puma_hub.tasks.scores import rmse
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


@dataclass(frozen=True)
class Side:
    """A bank, its held-out rows and its gain on the source LLM.

    ``told``: rows with the source's predictions, to calibrate by; ``taught``: those an adapter learns from.
    """

    name: str
    bank: PromptBank
    validation: datasets.Dataset
    gain: float
    told: datasets.Dataset
    taught: datasets.Dataset | None


Gains: TypeAlias = tuple[np.ndarray, ...]
"""Users, and squared errors with one mean prompt and with own ones, of the held-out rows."""

WAYS = ("as migrated", "calibrated by the source's predictions", "without its sensitivity", "by the adapter's mean")

TRAININGS = (
    Training("1", "shared base, seed 1", {"seed": 1, "prompt_method": "shared"}),
    Training("2", "shared base, seed 2", {"seed": 2, "prompt_method": "shared"}),
    Training(
        "3",
        "shared base, seed 3, penalty 0.15 in place of 0.05",
        {"seed": 3, "offset_penalty": 0.15, "prompt_method": "shared"},
    ),
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


def train_sources(out: Path, parts: dict[str, datasets.DatasetDict], dtype: str, noise: float) -> list[Side]:
    """The banks, how they do on the source LLM, and what the adapters learn from."""
    lm = load("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", dtype)
    print(line(["bank", "users", "trained with", "own", "mean", "shuffled", "user mean", "user + item bias"]))
    print("|---" * 8 + "|")
    sides = []
    for training in TRAININGS:
        rows = parts[training.name]
        bank = train_bank(lm, training, rows, out)
        held_out = HeldOut.build(lm, bank, rows["validation"])
        before = controls_of(held_out)
        plain = baseline_predictions(rows["train"], held_out.rows)
        errors = [rmse(plain[key], held_out.labels) for key in ("user_mean", "user_item_bias")]
        cells = [training.name, str(len(bank)), training.told, *show(before), *(f"{error:.4f}" for error in errors)]
        print(line(cells), flush=True)
        # What the head of a migrated bank is calibrated by: the source's predictions for training rows, no labels.
        few = rows["train"].shuffle(seed=0).select(range(min(CALIBRATION_ROWS, len(rows["train"]))))
        told = with_source_predictions(lm, bank, few, noise=0.0)
        taught = asked(lm, bank, rows, noise) if training.has_adapter else None
        sides.append(Side(training.name, bank, rows["validation"], before["gain"], told, taught))
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=270, help="of each training; the independent one has a third")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--noise", type=float, default=NOISE, help="on the prompts the teacher asks with, in spreads")
    parser.add_argument("--out", default="other-banks")
    args = parser.parse_args()
    out = Path(args.out)
    sides = train_sources(out, split_users(args.users), args.dtype, args.noise)

    lm = load("gemma-3-270m", "google/gemma-3-270m", args.dtype)
    adapters = {
        side.name: train_adapter(lm, side.bank, side.taught, side.name, out)
        for side in sides
        if side.taught is not None
    }
    columns = ["on bank", "adapter of bank", *(f"{way}: own, mean, shuffled; retention" for way in WAYS)]
    print("\n" + line(columns) + "\n" + "|---" * len(columns) + "|")
    gains: dict[tuple[str, str], Gains] = {}
    for side in sides:  # one bank after the other, so that its rows' prefixes stay in the cache
        for name, adapter in adapters.items():
            cells, gains[name, side.name] = migrated(lm, adapter, side, name == side.name)
            print(line([side.name, name, *cells]), flush=True)

    print("\nRetention over that of the bank's own adapter, and its standard error over users:\n")
    print(
        line(["adapter of bank", *(f"on bank {name}" for name in adapters)]) + "\n" + "|---" * (1 + len(adapters)) + "|"
    )
    for name in adapters:
        shares = [shown_share(gains[name, other], gains[other, other]) if name != other else "1" for other in adapters]
        print(line([name, *shares]), flush=True)


def migrated(lm: PersonalizedLM, adapter: PumaAdapter, side: Side, is_own: bool) -> tuple[list[str], Gains]:
    """A row of the matrix."""
    bank, rows = side.bank, side.validation
    moved = adapter.migrate(bank)
    predictions, labels = three_ways(lm, moved, rows)
    _, found = calibrate(lm, moved, side.told)
    shown = [predictions, [found.level + found.slope * predicted for predicted in predictions]]
    refused = ""
    if not is_own:
        assert bank.statistics is not None
        shown.append(three_ways(lm, adapter.migrate(bank, mean=bank.statistics.mean), rows)[0])
        try:
            shown.append(three_ways(lm, adapter.migrate(bank, mean="adapter"), rows)[0])
        except MismatchError:
            refused = "refused: prompts lie absurdly far from that mean"
    cells = [shown_side(part, labels, side.gain) for part in shown]
    users = np.array(rows["user_id"][:])
    gains = users, np.square(predictions[1] - labels), np.square(predictions[0] - labels)
    return [*cells, *[refused] * (len(WAYS) - len(cells))], gains


def shown_share(adapter: Gains, own_adapter: Gains) -> str:
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
