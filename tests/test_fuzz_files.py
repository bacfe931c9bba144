"""The files that keep banks, stores, adapters, distributions and runs: whatever is in them is read or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, RatingTask
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts, Evaluation, Training
from puma_hub.bank import KeyedStore
from puma_hub.bank.description import BankDescription
from puma_hub.bank.distribution import PromptDistribution
from puma_hub.bank.keyed_files import StoreDescription
from puma_hub.data.held_out import TrainedRows
from puma_hub.tasks import RatingHead
from puma_hub.training.state import STATE_FILE, RunState, load_state, save_state
from tests.conftest import make_interactions
from tests.fuzzing import as_file, damaged, damaged_bytes, quick, read_or_refused

SPEC = ModelSpec("org/model", 6, fingerprint="0" * 16)
TARGET = ModelSpec("org/target", 4)


def a_bank() -> PromptBank:
    """A bank of which everything is known."""
    torch.manual_seed(0)
    prompts = np.random.default_rng(0).normal(size=(40, 1, 6)).astype(np.float32)
    bank = PromptBank.from_arrays(
        [f"user-{number:02d}" for number in range(40)],
        prompts,
        SPEC,
        head=RatingHead().start_at(3.0),
        task=RatingTask(),
        template="rating",
        made_by="trained",
        details={"seed": 1, "rounded": {"dtype": "float16", "step": None, "error": 0.1}},
        history=({"made_by": "given", "model": SPEC.to_dict(), "parents": []},),
        parents=(0,),
        trained_rows=TrainedRows.of(make_interactions(3, 4)),
    )
    assert bank.statistics is not None
    return bank


class Kept:
    """One of each, as it is kept on disk."""

    def __init__(self, folder: Path) -> None:
        self.bank, self.store, self.adapter = (folder / name for name in ("bank", "store", "adapter"))
        self.distribution, self.run = folder / "distribution.safetensors", folder / "run"
        bank = a_bank()
        bank.save_pretrained(self.bank)
        bank.to_lmdb(self.store)
        PromptDistribution.of(bank).save(self.distribution)
        PumaAdapter(PumaConfig(sources=[SPEC], target=TARGET, hidden_size=4)).save_pretrained(self.adapter)
        metrics = {"migrated": {"rmse": 1.0, "mae": 0.8}, "source": {"rmse": 0.9}}
        facts = (Evaluation("films", "test", 9, 3, metrics),)
        AdapterFacts(facts, Training(3, 9, "all", "films", 5, 1.5, 1, 2.0, 3.0), "mit", "films").write(self.adapter)
        self.module, self.optimizer = a_run()
        save_state(self.run, "ours", RunState(losses=[1.0]), self.module, self.optimizer, self.module.state_dict())


def a_run() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return module, optimizer


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("at")


def placed(folder: Path, good: Path, file: str, content: bytes) -> Path:
    """A folder as ``good``, with other content in one file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    (folder / file).write_bytes(content)
    return folder


def json_or_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    return damaged(json.loads(content)).map(as_file) | damaged_bytes(content)


@quick
@given(data=st.data())
def test_bank_description(kept: Kept, at: Path, data: st.DataObject) -> None:
    good = (kept.bank / "bank.json").read_bytes()
    place = placed(at / "bank", kept.bank, "bank.json", data.draw(json_or_bytes(good)))
    found = read_or_refused(BankDescription.read, place / "bank.json", "a bank")
    if found is not None:
        found.write(place)
        assert BankDescription.read(place / "bank.json", "a bank") == found
        bank = read_or_refused(PromptBank.from_pretrained, place)
        if bank is not None:
            bank.save_pretrained(at / "again")
            assert PromptBank.from_pretrained(at / "again").provenance == bank.provenance
            assert repr(bank).isprintable()


@quick
@given(data=st.data())
def test_store_description(kept: Kept, at: Path, data: st.DataObject) -> None:
    good = (kept.store / "store.json").read_bytes()
    place = placed(at / "store", kept.store, "store.json", data.draw(json_or_bytes(good)))
    found = read_or_refused(StoreDescription.read, place)
    if found is not None:
        found.write(place)
        assert StoreDescription.read(place) == found
        store = read_or_refused(KeyedStore, place)
        if store is not None:
            read_or_refused(store.prompts_of, ["user-01", "user-39"])
            store.close()


@settings(quick, max_examples=60)
@given(data=st.data(), file=st.sampled_from(["config.json", "model.safetensors"]))
def test_adapter(kept: Kept, at: Path, data: st.DataObject, file: str) -> None:
    good = (kept.adapter / file).read_bytes()
    content = data.draw(json_or_bytes(good) if file == "config.json" else damaged_bytes(good))
    place = placed(at / "adapter", kept.adapter, file, content)
    found = read_or_refused(PumaAdapter.from_pretrained, place)
    if found is not None:
        found.save_pretrained(at / "adapter-again")
        again = PumaAdapter.from_pretrained(at / "adapter-again")
        assert again.config.to_dict() | {"_name_or_path": ""} == found.config.to_dict() | {"_name_or_path": ""}


@quick
@given(data=st.data())
def test_facts(kept: Kept, at: Path, data: st.DataObject) -> None:
    good = (kept.adapter / FACTS_FILE).read_bytes()
    (at / FACTS_FILE).write_bytes(data.draw(json_or_bytes(good)))
    found = read_or_refused(AdapterFacts.read, at)
    if found is not None:
        found.write(at)
        assert AdapterFacts.read(at) == found


def tensors_of(file: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def changed_tensors(draw: Callable[[Any], Any], file: Path, key: str) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata whose JSON under ``key`` is damaged, or tensors of which one is another."""
    metadata, tensors = tensors_of(file)
    if draw(st.booleans()):
        return {**metadata, key: as_file(draw(damaged(json.loads(metadata[key])))).decode()}, tensors
    name = draw(st.sampled_from([*tensors, "other", "optimizer.x.y", "module"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    kind = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
    value = draw(st.sampled_from([0.0, 1.0, float("nan")]))
    one = (
        torch.full(shape, value).nan_to_num(1).to(kind)
        if kind in (torch.int64, torch.bool)
        else torch.full(shape, value, dtype=kind)
    )
    return metadata, {**tensors, name: one}


@quick
@given(data=st.data())
def test_distribution(kept: Kept, at: Path, data: st.DataObject) -> None:
    file = at / "distribution.safetensors"
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(damaged_bytes(kept.distribution.read_bytes())))
    else:
        metadata, tensors = changed_tensors(data.draw, kept.distribution, "puma_hub_distribution")
        save_file(tensors, file, metadata)
    found = read_or_refused(PromptDistribution.load, file)
    if found is not None:
        found.save(file)
        again = PromptDistribution.load(file)
        assert again.provenance == found.provenance and np.array_equal(again.factors, found.factors)
        assert (again.users, again.noise_variance) == (found.users, found.noise_variance)
        assert len(found.sample(3)) == 3


@quick
@given(data=st.data())
def test_training_state(kept: Kept, at: Path, data: st.DataObject) -> None:
    good = kept.run / STATE_FILE
    if data.draw(st.booleans()):
        (at / STATE_FILE).write_bytes(data.draw(damaged_bytes(good.read_bytes())))
    else:
        metadata, tensors = changed_tensors(data.draw, good, "state")
        save_file(tensors, at / STATE_FILE, metadata)
    found = read_or_refused(load_state, at, "ours", *a_run())
    if found is not None:
        assert isinstance(found[0].losses, list)
