"""What a bank tells of the banks before it: every step once, each after those it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, chain, migrate
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.bank.card import bank_card
from puma_hub.bank.lineage import lineage_lines
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError, MismatchError
from puma_hub.migration import chain_to
from tests.conftest import make_bank
from tests.test_bank_batches import same
from tests.trainings import USERS, make_training

A, B, C, D = (ModelSpec(f"org/{name}", size) for name, size in zip("abcd", (32, 24, 16, 20)))


def adapter_to(target: ModelSpec, *sources: ModelSpec, trained: bool = False, seed: int = 0) -> PumaAdapter:
    torch.manual_seed(seed)
    adapter = PumaAdapter(PumaConfig(sources=list(sources), target=target, hidden_size=40)).eval()
    if trained:
        with torch.no_grad():
            for part in (adapter.base, adapter.input_mean, adapter.output_mean):
                part.normal_(std=0.1)
        facts = tuple(SourceBank(f"{number:016x}", 1.0, USERS) for number in range(len(sources)))
        adapter.config.trained_on = TrainedOn(facts, 20.0, 0.5, USERS)
    return adapter


def to_and_fro(trained: bool) -> list[PumaAdapter]:
    there, back = adapter_to(B, A, trained=trained), adapter_to(A, B, trained=trained, seed=1)
    return [there, back, there, back]


def one_by_one(bank: Any, steps: list[PumaAdapter], **options: Any) -> PromptBank:
    current = migrate(steps[0], bank, **options)
    for step in steps[1:]:
        current = migrate(step, current)
    return current


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("batch_size", [7, 4096])
def test_four_migrations(tmp_path: Path, trained: bool, batch_size: int) -> None:
    make_training(1, A).save_pretrained(tmp_path / "bank")
    bank, steps = PromptBank.from_pretrained(tmp_path / "bank"), to_and_fro(trained)
    expected = one_by_one(bank, steps)
    assert same(chain(bank, steps, batch_size=batch_size), expected)
    assert same(chain_to(tmp_path / "out", bank, steps, batch_size=batch_size, max_shard_size="4KB"), expected)
    facts = expected.provenance
    assert [step["model"]["model_id"] for step in facts.history] == ["org/a", "org/b", "org/a", "org/b"]
    assert [step.get("parents", []) for step in facts.history] == [[], [0], [1], [2]] and facts.parents == (3,)
    assert lineage_lines(facts.lineage) == [
        "1. given: org/a",
        "2. migrated from 1: org/b",
        "3. migrated from 2: org/a",
        "4. migrated from 3: org/b",
        "5. migrated from 4: org/a",
    ]
    assert facts == PromptBank.from_pretrained(tmp_path / "out").provenance


@pytest.mark.parametrize("kinds", [(True, False), (False, True)])
def test_trained_and_untrained_adapters_in_one_chain(tmp_path: Path, kinds: tuple[bool, bool]) -> None:
    make_training(1, A).save_pretrained(tmp_path / "bank")
    bank = PromptBank.from_pretrained(tmp_path / "bank")
    steps = [adapter_to(B, A, trained=kinds[0]), adapter_to(C, B, trained=kinds[1])]
    expected = one_by_one(bank, steps)
    assert same(chain(bank, steps), expected)
    assert same(chain_to(tmp_path / "out", bank, steps, batch_size=9), expected)


@pytest.mark.parametrize("missing", ["leave-out", "mean", "predict"])
def test_an_aggregate_and_then_a_chain(tmp_path: Path, missing: str) -> None:
    first, second = make_training(1, A), make_training(2, B)
    second = second.remove(["user-3", "user-7"])
    for name, bank in (("first", first), ("second", second)):
        bank.save_pretrained(tmp_path / name)
    banks = [PromptBank.from_pretrained(tmp_path / name) for name in ("first", "second")]
    steps = [adapter_to(C, A, B, trained=True), adapter_to(D, C, trained=True), adapter_to(A, D, trained=True)]
    expected = one_by_one(banks, steps, missing=missing)
    assert len(expected) == (USERS - 2 if missing == "leave-out" else USERS)
    assert same(chain(banks, steps, missing=missing), expected)
    assert same(chain_to(tmp_path / "out", banks, steps, missing=missing, batch_size=5), expected)
    assert lineage_lines(expected.provenance.lineage) == [
        "1. given: org/a",
        "2. given: org/b",
        "3. migrated from 1 and 2: org/c",
        "4. migrated from 3: org/d",
        "5. migrated from 4: org/a",
    ]


def test_what_two_sources_have_in_common_is_listed_once() -> None:
    bank = make_training(1, A)
    moved = migrate(adapter_to(B, A), bank)
    joined = migrate(adapter_to(C, A, B), [bank, moved])
    assert lineage_lines(joined.provenance.lineage) == [
        "1. given: org/a",
        "2. migrated from 1: org/b",
        "3. migrated from 1 and 2: org/c",
    ]
    twice = migrate(adapter_to(C, B, A), [moved, bank])
    assert twice.provenance.parents == (1, 0)


def test_trainings_apart_on_one_llm_are_two_steps() -> None:
    one, two = make_training(1, A), make_training(2, A)
    joined = migrate(adapter_to(C, A, A), [one, two])
    assert [step["base_id"] for step in joined.provenance.history] == [one.statistics.base_id, two.statistics.base_id]
    assert joined.provenance.parents == (0, 1)
    same_twice = migrate(adapter_to(C, A, A), [one, one])
    assert len(same_twice.provenance.history) == 1 and same_twice.provenance.parents == (0, 0)


def test_cards_and_info_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    banks = [make_training(1, A), make_training(2, B)]
    adapter_to(C, A, B).save_pretrained(tmp_path / "join")
    adapter_to(D, C).save_pretrained(tmp_path / "onward")
    for name, bank in zip("ab", banks):
        bank.save_pretrained(tmp_path / name)
    command = ["chain", "--bank", tmp_path / "a", "--bank", tmp_path / "b", "--adapter", tmp_path / "join"]
    command += ["--adapter", tmp_path / "onward", "--missing", "mean", "--out", tmp_path / "out"]
    command += ["--json", tmp_path / "report.json"]
    assert main([str(part) for part in command]) == 0
    lines = ["1. given: org/a", "2. given: org/b", "3. migrated from 1 and 2: org/c", "4. migrated from 3: org/d"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["lineage"] == lines and report["missing"] == {"policy": "mean", "users_filled": [0, 0]}
    capsys.readouterr()
    assert main(["info", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["lineage"] == lines
    card = str(bank_card(PromptBank.from_pretrained(tmp_path / "out"), "me/bank"))
    assert "| | how | from | LLM | details |" in card
    assert "| 3 | migrated by an adapter from the banks before it | 1, 2 | `org/c` |" in card
    assert "| 1 | given from elsewhere |  | `org/a` |" in card


@pytest.mark.parametrize("parents", [[1], [-1], ["0"], [True], "0", 3, [[0]]])
def test_a_lineage_that_cannot_be_is_refused(parents: Any) -> None:
    step = {"made_by": "given", "parents": parents}
    with pytest.raises(BankError, match="numbers of earlier steps"):
        make_bank(2).with_provenance(history=({"made_by": "given"}, {"made_by": "given"}, step)[2:])
    if parents != [1]:
        with pytest.raises(BankError, match="numbers of earlier steps"):
            make_bank(2).with_provenance(history=({"made_by": "given"},) * 2, parents=parents)


def test_chains_that_do_not_fit_are_refused_before_a_prompt_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, there = make_training(1, A), adapter_to(B, A)
    monkeypatch.setattr(PromptBank, "prompts_at", lambda *_: pytest.fail("prompts were read"))
    cases: list[tuple[Any, list[PumaAdapter], type[Exception], str]] = [
        (bank, [], ConfigurationError, "at least one adapter"),
        (bank, [there, there], MismatchError, "adapter 2 of the chain"),
        (bank, [there, adapter_to(C, A, B)], MismatchError, "only the first may take several banks"),
        ([bank, bank], [there], MismatchError, r"takes 1 bank\(s\)"),
        (bank, [adapter_to(C, A, B)], MismatchError, r"takes 2 bank\(s\), for org/a, org/b; got 1"),
        ([make_training(2, B), bank], [adapter_to(C, A, B)], MismatchError, "bank 1 of 2"),
    ]
    for banks, steps, error, says in cases:
        with pytest.raises(error, match=says):
            chain(banks, steps)
        with pytest.raises(error, match=says):
            chain_to(tmp_path / "out", banks, steps)
    assert not list(tmp_path.iterdir())


def test_a_user_comes_out_of_a_chain_alike_alone_and_among_others() -> None:
    bank, steps = make_training(1, A), to_and_fro(trained=True)
    whole = chain(bank, steps)
    assert np.array_equal(chain(bank.select(["user-7"]), steps)["user-7"], whole["user-7"])
