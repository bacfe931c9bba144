"""Commands on tiny models, what they read, and what their files hold but for what is measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig
from puma_hub.training.state import STATE_FILE
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from tests.forked_cli import ForkedCli

TRAINING = ("--epochs", 2, "--batch-size", 24, "--checkpoint-seconds", 0)
COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "fit": lambda place: ["fit", "--model", place / "llama", "--interactions", place / "rows.csv", *TRAINING],
    "train": lambda place: [
        *("train", "--target", place / "gemma3", "--teacher", place / "llama", "--bank", place / "bank"),
        *("--interactions", place / "rows.csv", "--draw", 60, *TRAINING),
    ],
    "migrate": lambda place: ["migrate", "--adapter", place / "adapter", "--bank", place / "many", "--batch-size", 64],
}


@pytest.fixture(scope="module", name="temporary")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where temporary files of commands go."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module", name="cli")
def forked_cli(temporary: Path) -> Iterator[ForkedCli]:
    process = ForkedCli(temporary)
    yield process
    process.close()


@pytest.fixture(scope="module", name="place")
def command_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


def make_place(folder: Path) -> Path:
    """Two tiny models, ratings, a bank, and a bank in several files with an adapter that migrates it."""
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(folder / family)
        make_tokenizer().save_pretrained(folder / family)
    make_interactions(users=10, rows=12).to_csv(folder / "rows.csv", index=False)
    make_bank(10, family="llama").save_pretrained(folder / "bank")
    spec = ModelSpec("org/source", 128)
    prompts = np.random.default_rng(0).normal(size=(4000, 1, 128)).astype(np.float32)
    many = PromptBank.from_arrays([f"u{number}" for number in range(4000)], prompts, spec)
    many.save_pretrained(folder / "many", max_shard_size="200KB")
    for name, seed in (("adapter", 0), ("other", 1)):
        torch.manual_seed(seed)
        PumaAdapter(PumaConfig(sources=[spec], target=ModelSpec("org/target", 64))).save_pretrained(folder / name)
    make_bank(60, seed=1).save_pretrained(folder / "few", max_shard_size="4KB")
    return folder


def without(data: Any, names: frozenset[str]) -> Any:
    """``data`` without the values of these names, wherever they are."""
    if isinstance(data, Mapping):
        return {name: None if name in names else without(value, names) for name, value in data.items()}
    return [without(value, names) for value in data] if isinstance(data, list) else data


# What a clock, the memory or the cache of a process says of a run. All else has to be the same.
MEASURED = {
    # Seconds of each part, and the speed that follows; memory; how often this process found a prefix in its cache.
    "work/report.json": frozenset({"seconds", "samples_per_second", "peak_memory_bytes", "hits", "misses"}),
    "adapter/adapter_facts.json": frozenset({"seconds"}),
    # The seconds, and the same in the log. What a tracker is told at the end is measured too.
    STATE_FILE: frozenset({"seconds", "train_runtime", "train_samples_per_second"}),
}
CARD_SECONDS = re.compile(rb"[\d,]+ seconds")  # of the training, rounded, in a sentence


def files_of(folder: Path) -> dict[str, Any]:
    """What the files of a folder hold, without what is measured."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        if name in MEASURED:
            found[name] = without(json.loads(content), MEASURED[name])
        elif path.name == STATE_FILE:
            with safe_open(path, framework="np") as file:
                tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            state = without(json.loads(metadata.pop("state")), MEASURED[STATE_FILE])
            found[name] = (tensors, metadata, state)
        else:
            found[name] = CARD_SECONDS.sub(b"", content) if name == "adapter/README.md" else content
    return found


def hidden(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*")]
