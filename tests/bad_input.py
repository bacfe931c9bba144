"""Good things to spoil, and the check that every foreseeable mistake has to pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from puma_hub import (
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaConfig,
    PumaHubError,
    PumaTrainingArguments,
)
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer

SIZE = 32


class Place:
    """Good things to spoil: a folder, a scorer, rows, a bank of that LLM and a saved adapter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.lm = PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny/llama")
        self.rows = make_interactions()
        self.bank = make_bank()
        self.ids = self.bank.user_ids
        self.prompts = np.array(self.bank.prompts)
        self.adapter = PumaAdapter(self.config()).eval()

    def config(self, **changes: Any) -> PumaConfig:
        pair = {"sources": [ModelSpec("source", SIZE)], "target": ModelSpec("target", SIZE)}
        return PumaConfig(**{**pair, **changes})

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def csv(self, **changes: Any) -> Path:
        """The rows as a file, with some columns spoilt; None leaves one out."""
        table = self.rows.to_pandas()
        for name, value in changes.items():
            table = table.drop(columns=name) if value is None else table.assign(**{name: value})
        table.to_csv(self.folder / "rows.csv", index=False)
        return self.folder / "rows.csv"

    def fit(self, **options: Any) -> PromptTrainer:
        return PromptTrainer(self.lm, self.rows, PumaTrainingArguments(disable_tqdm=True, **options))

    def saved(self) -> Path:
        self.adapter.save_pretrained(self.folder / "adapter")
        return self.folder / "adapter"

    def saved_bank(self) -> Path:
        self.bank.save_pretrained(self.folder / "bank")
        return self.folder / "bank"

    def spoilt_adapter(self, change: Callable[[dict[str, torch.Tensor]], object]) -> PumaAdapter:
        file = self.saved() / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        return PumaAdapter.from_pretrained(file.parent)

    def own_bank(self, **changes: Any) -> PromptBank:
        return PromptBank.from_arrays(self.ids, self.prompts, self.lm.spec, **changes)


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def with_value(prompts: np.ndarray, value: float) -> np.ndarray:
    prompts[2, 0, 1] = value
    return prompts


def resumed(p: Place) -> object:
    options = {"output_dir": str(p.folder / "work"), "num_train_epochs": 1}
    p.fit(**options).train()
    return p.fit(**{**options, "learning_rate": 0.5}).train()


def resumed_cut(p: Place) -> object:
    options = {"output_dir": str(p.folder / "work"), "num_train_epochs": 1}
    p.fit(**options).train()
    cut(p.folder / "work" / "training_state.safetensors")
    return p.fit(**options).train()


def cut_bank(p: Place) -> object:
    cut(next(p.saved_bank().rglob("*.parquet")))
    return PromptBank.from_pretrained(p.folder / "bank")


def cut_adapter(p: Place) -> object:
    cut(p.saved() / "model.safetensors")
    return PumaAdapter.from_pretrained(p.folder / "adapter")


def no_weights(p: Place) -> object:
    (p.saved() / "model.safetensors").unlink()
    return PumaAdapter.from_pretrained(p.folder / "adapter")


def no_provenance(p: Place) -> object:
    (p.saved_bank() / "bank.json").unlink()
    return PromptBank.from_pretrained(p.folder / "bank")


def plain(columns: dict[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def provenance() -> Any:
    return make_bank().provenance


Case = tuple[Callable[[Place], object], type[PumaHubError], str]
"""The call, the error, and what its message has to say."""


def require_clear_error(case: Case, folder: Path) -> None:
    """The mistake raises its error, which says what to do, names no user, and leaves nothing behind."""
    call, kind, says = case
    place = Place(folder)
    with pytest.raises(kind, match=says) as raised:
        call(place)
    message = str(raised.value)
    assert isinstance(raised.value, PumaHubError) and len(message) > 30
    assert not any(user in message for user in place.ids)  # ids are personal
    assert not list(folder.rglob(".*")), "something half written was left"
