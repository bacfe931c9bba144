"""Mistakes in banks, adapters and migrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from puma_hub import (
    ModelSpec,
    PromptBank,
    PumaAdapter,
    chain,
    migrate,
    warm_start,
)
from puma_hub import errors as e
from puma_hub.tasks import RatingHead
from tests.bad_input import (
    SIZE,
    Case,
    cut_adapter,
    cut_bank,
    no_provenance,
    no_weights,
    plain,
    provenance,
    require_clear_error,
    with_value,
)
from tests.conftest import make_bank, make_tokenizer

CASES: dict[str, Case] = {
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
        "is for 10 answers, the bank's task has 5",
    ),
    "no prompt column": (lambda p: PromptBank(plain({"user_id": ["a"]}), provenance()), e.BankError, "lack prompt"),
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
    "no bank there": (lambda p: PromptBank.from_pretrained(p.folder / "bank"), e.StorageError, "it is not a folder"),
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
        "missing 'base'",
    ),
    "a tensor too many": (
        lambda p: p.spoilt_adapter(lambda tensors: tensors.update(more=torch.zeros(2))),
        e.CheckpointError,
        "unexpected 'more'",
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
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_and_nothing_left(case: str, tmp_path: Path) -> None:
    require_clear_error(CASES[case], tmp_path)
