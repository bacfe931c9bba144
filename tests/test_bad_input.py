"""The mistakes a user can foresee, in one list: a clear error that says what to do, and nothing left behind."""

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
    AdapterTrainer,
    ClickTask,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTemplate,
    PromptTrainer,
    PumaAdapter,
    PumaConfig,
    PumaHubError,
    PumaTrainingArguments,
    RatingTask,
    chain,
    compare_banks,
    evaluate_bank,
    migrate,
    select_users,
    warm_start,
)
from puma_hub import errors as e
from puma_hub.data import check_interactions, load_interactions
from puma_hub.tasks import PRESETS, RatingHead
from puma_hub.training import with_source_predictions
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


# What went wrong, the call, the error, and what its message has to say.
CASES: dict[str, tuple[Callable[[Place], object], type[PumaHubError], str]] = {
    # Interactions
    "no such file": (lambda p: load_interactions("absent.csv"), e.StorageError, "no interactions at absent.csv"),
    "unknown ending": (lambda p: load_interactions(p.file("r.xls", "x")), e.StorageError, "unknown ending"),
    "not the format it says": (
        lambda p: load_interactions(p.file("r.parquet", "x")),
        e.InteractionsError,
        "as parquet",
    ),
    "a column is missing": (
        lambda p: load_interactions(p.csv(label=None)),
        e.InteractionsError,
        "label missing.*rename",
    ),
    "an id is empty": (lambda p: load_interactions(p.csv(user_id="")), e.InteractionsError, "'user_id' is empty in"),
    "an item has no text": (lambda p: load_interactions(p.csv(item_text="")), e.InteractionsError, "drop or fill"),
    "labels are words": (lambda p: load_interactions(p.csv(label="good")), e.InteractionsError, "must hold numbers"),
    "labels are infinite": (lambda p: load_interactions(p.csv(label=np.inf)), e.InteractionsError, "NaN or infinite"),
    "ratings outside the task": (
        lambda p: load_interactions(p.csv(label=9), task=RatingTask()),
        e.InteractionsError,
        "outside the task's values.*9.0",
    ),
    "ratings for a click task": (lambda p: check_interactions(p.rows, ClickTask()), e.InteractionsError, r"\(0, 1\)"),
    "histories are not lists": (
        lambda p: load_interactions(p.csv(history="Toy Story; Heat")),
        e.InteractionsError,
        "lists of titles, found string; csv has no lists",
    ),
    "a timestamp is missing": (
        lambda p: load_interactions(p.csv(timestamp=[1, None] * 48)),
        e.InteractionsError,
        "'timestamp' is empty in 48 of 96 rows",
    ),
    "timestamps without an order": (
        lambda p: load_interactions(p.csv(timestamp="12/31/2019")),
        e.InteractionsError,
        "such as 2024-12-31 23:59:00, found '12/31/2019'",
    ),
    "timestamps of another type": (
        lambda p: check_interactions(p.rows.remove_columns("timestamp").add_column("timestamp", [True] * 96)),
        e.InteractionsError,
        "must hold numbers or times",
    ),
    "no rows": (lambda p: check_interactions(p.rows.select([])), e.InteractionsError, "empty"),
    "not a dataset": (lambda p: check_interactions([{"user_id": "a"}]), e.InteractionsError, "got list"),  # type: ignore[arg-type]
    "held-out share": (lambda p: load_interactions(p.csv(), held_out=1.0), e.ConfigurationError, "between 0 and 1"),
    "MovieLens not fetched": (
        lambda p: load_interactions("movielens-100k", folder=p.folder),
        e.StorageError,
        "puma-hub fetch movielens-100k",
    ),
    # Templates, tasks and language models
    "unknown slot": (lambda p: PromptTemplate("<user> <film>"), e.TemplateError, "unknown slot <film>"),
    "two slots": (lambda p: PromptTemplate("<user> and <user>"), e.TemplateError, "stands 2 times"),
    "no slot": (lambda p: PromptTemplate("rate <item>"), e.TemplateError, "no <user> slot"),
    "unknown preset": (lambda p: PromptTemplate.of("netflix"), e.ConfigurationError, ", ".join(PRESETS)),
    "a template shows a history that is not there": (
        lambda p: PromptTrainer(
            PersonalizedLM(make_model("llama"), make_tokenizer(), template="<history> <item> <user>"), p.rows
        ),
        e.TemplateError,
        "no column 'history'",
    ),
    "text too long": (
        lambda p: p.lm.logits(torch.zeros(1, 1, SIZE), [{"item_text": "long " * 400}]),
        e.TemplateError,
        "shorten item_text",
    ),
    "values out of order": (lambda p: RatingTask(values=(5, 1)), e.ConfigurationError, "rising numbers"),
    "answers share a token": (
        lambda p: PersonalizedLM(make_model("llama"), make_tokenizer(), task=RatingTask(values=range(100, 300))),
        e.AnswerTokenError,
        "cannot tell the answers",
    ),
    "no language model there": (
        lambda p: PersonalizedLM.from_pretrained(str(p.folder)),
        e.StorageError,
        "holds no model",
    ),
    "unknown cache policy": (
        lambda p: PersonalizedLM(make_model("llama"), make_tokenizer(), prefix_cache="some"),
        e.ConfigurationError,
        "choose one of auto, full",
    ),
    "prompts of another size": (
        lambda p: p.lm.logits(torch.zeros(1, 1, 16), [{"item_text": "a"}]),
        e.MismatchError,
        "migrate prompts",
    ),
    "more prompts than rows": (
        lambda p: p.lm.logits(torch.zeros(2, 1, SIZE), [{"item_text": "a"}]),
        e.BankError,
        "2 prompts for 1 rows",
    ),
    # Banks
    "duplicate ids": (lambda p: PromptBank.from_arrays(["a"] * 8, p.prompts, p.bank.model), e.BankError, "duplicates"),
    "empty ids": (
        lambda p: PromptBank.from_arrays([""] * 8, p.prompts, p.bank.model),
        e.BankError,
        "8 user ids are empty",
    ),
    "ids are numbers": (lambda p: PromptBank.from_arrays(range(8), p.prompts, p.bank.model), e.BankError, r"str\(\)"),  # type: ignore[arg-type]
    "fewer ids than prompts": (
        lambda p: PromptBank.from_arrays(["a"], p.prompts, p.bank.model),
        e.BankError,
        "1 user ids",
    ),
    "wrong shape": (
        lambda p: PromptBank.from_arrays(p.ids, p.prompts[:, 0], p.bank.model),
        e.BankError,
        "must have shape",
    ),
    "NaN prompts": (
        lambda p: PromptBank.from_arrays(p.ids, with_value(p.prompts, np.nan), p.bank.model),
        e.BankError,
        "row 2 holds NaN",
    ),
    "infinite prompts": (
        lambda p: PromptBank.from_arrays(p.ids, with_value(p.prompts, np.inf), p.bank.model),
        e.BankError,
        "row 2 holds NaN or infinite",
    ),
    "a head for other answers": (
        lambda p: PromptBank.from_arrays(p.ids, p.prompts, p.bank.model, head=RatingHead(10)),
        e.BankError,
        "takes 10 answers, the bank's task has 5",
    ),
    "no prompt column": (lambda p: PromptBank(plain({"user_id": ["a"]}), provenance()), e.BankError, "prompt missing"),
    "lists of other lengths": (
        lambda p: PromptBank(plain({"user_id": ["a", "b"], "prompt": [[0.0] * SIZE, [0.0] * 3]}), provenance()),
        e.BankError,
        "lists of other lengths",
    ),
    "lists of whole numbers": (
        lambda p: PromptBank(plain({"user_id": ["a"], "prompt": [[0] * SIZE]}), provenance()),
        e.BankError,
        "PromptBank.from_arrays",
    ),
    "unknown user": (lambda p: p.bank["nobody"], e.UnknownUserError, "not among the 8 users"),
    "unknown users selected": (lambda p: p.bank.select(["user-1", "x"]), e.UnknownUserError, "1 of 2 users"),
    "user named twice": (lambda p: p.bank.select(["user-1", "user-1"]), e.BankError, "name each once"),
    "update by another LLM": (lambda p: p.bank.update(make_bank(size=16)), e.MismatchError, "hidden size 16"),
    "no bank there": (lambda p: PromptBank.from_pretrained(p.folder / "bank"), e.StorageError, "no such folder"),
    "bank without provenance": (no_provenance, e.StorageError, "bank.json missing"),
    "bank cut short": (cut_bank, e.CheckpointError, "damaged"),
    # Adapters
    "unknown architecture": (lambda p: p.config(architecture="deep"), e.ConfigurationError, "seed, paper, linear"),
    "prompt length of zero": (lambda p: p.config(prompt_length=0), e.ConfigurationError, "prompt_length must be"),
    "spec without a size": (
        lambda p: p.config(target={"model_id": "m"}),
        e.ConfigurationError,
        "model_id and hidden_size",
    ),
    "no target": (lambda p: PumaAdapter(p.config(target=None)), e.ConfigurationError, "needs sources"),
    "no adapter there": (lambda p: PumaAdapter.from_pretrained(p.folder), e.CheckpointError, "cannot load an adapter"),
    "adapter without weights": (no_weights, e.CheckpointError, "cannot load an adapter"),
    "adapter cut short": (cut_adapter, e.CheckpointError, "cannot load an adapter"),
    "a tensor is missing": (
        lambda p: p.spoilt_adapter(lambda tensors: tensors.pop("base")),
        e.CheckpointError,
        r"missing \['base'\]",
    ),
    "a tensor too many": (
        lambda p: p.spoilt_adapter(lambda tensors: tensors.update(more=torch.zeros(2))),
        e.CheckpointError,
        r"unexpected \['more'\]",
    ),
    "a tensor of another shape": (
        lambda p: p.spoilt_adapter(lambda tensors: tensors.update(base=torch.zeros(1, 7))),
        e.CheckpointError,
        "cannot load|mismatched",
    ),
    "NaN weights": (lambda p: p.spoilt_adapter(lambda t: t["base"].fill_(torch.nan)), e.CheckpointError, "NaN"),
    "warm start of architecture paper": (
        lambda p: warm_start(
            p.config(architecture="paper"),
            torch.zeros(9, SIZE),
            make_tokenizer(),
            torch.zeros(9, SIZE),
            make_tokenizer(),
        ),
        e.ConfigurationError,
        "'seed' or 'linear'",
    ),
    # Migration
    "bank of another size": (lambda p: migrate(p.adapter, make_bank(size=16)), e.MismatchError, "hidden size 16"),
    "bank of other weights": (
        lambda p: migrate(
            PumaAdapter(p.config(sources=[ModelSpec("source", SIZE, fingerprint="a" * 16)])),
            PromptBank.from_arrays(p.ids, p.prompts, ModelSpec("source", SIZE, fingerprint="b" * 16)),
        ),
        e.MismatchError,
        "other weights",
    ),
    "bank of another prompt length": (lambda p: migrate(p.adapter, make_bank(length=2)), e.MismatchError, "length 2"),
    "two banks for one source": (lambda p: migrate(p.adapter, [p.bank, p.bank]), e.MismatchError, "takes 1 bank"),
    "no users": (lambda p: migrate(p.adapter, p.bank.select([])), e.BankError, "empty"),
    "chain of nothing": (lambda p: chain(p.bank, []), e.ConfigurationError, "at least one adapter"),
    "chain that does not fit": (
        lambda p: chain(p.bank, [p.adapter, PumaAdapter(p.config(sources=[ModelSpec("other", 16)]))]),
        e.MismatchError,
        "adapter 2",
    ),
    # Selection, training, evaluation
    "unknown strategy": (lambda p: select_users(p.bank, p.rows, "best"), e.ConfigurationError, "choose one of"),
    "empty budget": (lambda p: select_users(p.bank, p.rows, budget=0), e.SelectionError, "whole number >= 1"),
    "users without rows": (
        lambda p: AdapterTrainer(p.lm, make_bank(9), p.rows, users=["user-8"]),
        e.SelectionError,
        "none of the 1 chosen users",
    ),
    "users in no bank": (lambda p: AdapterTrainer(p.lm, p.bank, p.rows, users=["x"]), e.SelectionError, "in no bank"),
    "bank of another task": (
        lambda p: AdapterTrainer(p.lm, p.own_bank(task=ClickTask()), p.rows),
        e.MismatchError,
        "the same task",
    ),
    "init of another task": (
        lambda p: AdapterTrainer(
            p.lm,
            p.own_bank(),
            p.rows,
            init=PumaAdapter(p.config(sources=[p.lm.spec], target=p.lm.spec, task=ClickTask())),
        ),
        e.MismatchError,
        "init was made for ClickTask",
    ),
    "a teacher asked with another template": (
        lambda p: with_source_predictions(p.lm, p.own_bank(template="<user> rates <item>:"), p.rows),
        e.MismatchError,
        "give the scorer the bank's template",
    ),
    "a rate that blows up": (lambda p: p.fit(learning_rate=1e30).train(), e.ConfigurationError, "lower learning rate"),
    "no epochs": (lambda p: p.fit(num_train_epochs=0), e.ConfigurationError, "num_train_epochs"),
    "negative rate": (lambda p: p.fit(learning_rate=-1.0), e.ConfigurationError, "learning_rate"),
    "unknown method": (lambda p: p.fit(prompt_method="free"), e.ConfigurationError, "shared, independent"),
    "unknown schedule": (lambda p: p.fit(lr_scheduler_type="wild").train(), e.ConfigurationError, "lr_scheduler_type"),
    "resumed with other settings": (resumed, e.CheckpointError, "other settings or data"),
    "resumed from half a file": (resumed_cut, e.CheckpointError, "delete it to start again"),
    "evaluated by another LLM": (
        lambda p: evaluate_bank(p.lm, make_bank(size=16), p.rows),
        e.MismatchError,
        "hidden size",
    ),
    "evaluated on strangers": (
        lambda p: evaluate_bank(
            p.lm, p.own_bank().select(["user-1"]), p.rows.filter(lambda r: r["user_id"] == "user-2")
        ),
        e.InteractionsError,
        "check the user ids",
    ),
    "compared without common users": (
        lambda p: compare_banks(p.lm, p.own_bank().select(["user-1"]), p.lm, p.own_bank().select(["user-2"]), p.rows),
        e.MismatchError,
        "share no user",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_and_nothing_left(case: str, tmp_path: Path) -> None:
    call, kind, says = CASES[case]
    place = Place(tmp_path)
    with pytest.raises(kind, match=says) as raised:
        call(place)
    message = str(raised.value)
    assert isinstance(raised.value, PumaHubError) and len(message) > 30
    assert not any(user in message for user in place.ids)  # ids are personal
    assert not list(tmp_path.rglob(".*")), "something half written was left"
