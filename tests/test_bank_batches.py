"""Banks that are written batch by batch, and migrations that go from files to files."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, migrate
from puma_hub.bank import BankStatistics, Provenance
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError
from puma_hub.migration import migrate_to
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank

SPEC = ModelSpec("source", 32)
PROVENANCE = Provenance(SPEC, 1)


def in_batches(bank: PromptBank, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    order = sorted(bank.user_ids)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        yield part, bank.prompts_at(bank.rows(part))


def make_adapter(*sources: ModelSpec) -> PumaAdapter:
    torch.manual_seed(0)
    return PumaAdapter(PumaConfig(sources=list(sources or (SPEC,)), target=ModelSpec("target", 24), hidden_size=48))


def same(one: PromptBank, other: PromptBank) -> bool:
    users = sorted(one.user_ids)
    alike = one.prompts_at(one.rows(users)).tobytes() == other.prompts_at(other.rows(users)).tobytes()
    assert one.provenance.to_dict() == other.provenance.to_dict()
    assert (one.head is None) is (other.head is None)
    return alike and sorted(other.user_ids) == users


@pytest.mark.parametrize("size", [1, 7, 300, 1000])
def test_batches_of_any_size_give_the_saved_bank(tmp_path: Path, size: int) -> None:
    bank = make_bank(1000)
    head = RatingHead(5)
    written = PromptBank.from_batches(tmp_path / "a", in_batches(bank, size), PROVENANCE, head, max_shard_size="20KB")
    with_head = PromptBank(bank.dataset, bank.provenance, head)
    with_head.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert len(list((tmp_path / "a" / "data").iterdir())) > 4
    assert same(written, with_head) and same(written, PromptBank.from_pretrained(tmp_path / "b"))
    kept = written.head.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in head.state_dict().items())
    plain = datasets.load_dataset(str(tmp_path / "a"), split="train", cache_dir=str(tmp_path / "cache"))
    assert plain["user_id"][:] == sorted(bank.user_ids)
    assert np.array_equal(np.array(plain["prompt"][:], np.float32).reshape(-1, 1, 32), written.prompts)


def test_statistics_do_not_depend_on_the_batches() -> None:
    prompts = np.random.default_rng(0).normal(3, 1, (9000, 2, 5)).astype(np.float32)
    whole = BankStatistics.of_prompts(prompts)
    for size in (1, 4095, 5000):
        found = BankStatistics.of_batches(lambda: np.split(prompts, range(size, 9000, size)))  # noqa: B023
        assert found.to_dict() == whole.to_dict()
    assert whole.mean.tobytes() == prompts.mean(0, dtype=np.float64).astype(np.float32).tobytes()
    assert whole.spread == pytest.approx(float((prompts - whole.mean).std()), rel=1e-6)


def test_a_bank_of_nobody(tmp_path: Path) -> None:
    assert len(PromptBank.from_batches(tmp_path / "bank", [], PROVENANCE)) == 0


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([(["b", "a"], np.ones((2, 1, 32)))], "row 0 are not sorted"),
        ([(["a"], np.ones((1, 1, 32))), (["a"], np.ones((1, 1, 32)))], "row 1 are not sorted"),
        ([(["a", "a"], np.ones((2, 1, 32)))], "duplicates"),
        ([(["a"], np.full((1, 1, 32), np.nan))], "NaN or infinite"),
        ([(["a"], np.ones((1, 1, 31)))], r"needs prompts of shape \(1, 1, 32\), got \(1, 1, 31\)"),
        ([(["a", "b"], np.ones((1, 1, 32)))], "a batch of 2 user ids"),
    ],
)
def test_batches_that_are_no_bank_leave_the_old_one(tmp_path: Path, batches: list[Any], says: str) -> None:
    make_bank(3).save_pretrained(tmp_path / "bank")
    with pytest.raises(BankError, match=says):
        PromptBank.from_batches(tmp_path / "bank", batches, PROVENANCE)
    assert len(PromptBank.from_pretrained(tmp_path / "bank")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_what_cannot_be_written_is_refused_before_a_batch_is_made(tmp_path: Path) -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("a batch was asked for")
        yield

    with pytest.raises(BankError, match="head is for 7 answers"):
        PromptBank.from_batches(tmp_path / "bank", never(), PROVENANCE, RatingHead(7))
    with pytest.raises(ConfigurationError, match="max_shard_size"):
        PromptBank.from_batches(tmp_path / "bank", never(), PROVENANCE, max_shard_size="big")


@pytest.mark.parametrize("batch_size", [1, 100, 4096])
def test_a_migration_into_files_has_the_bits_of_one_in_memory(tmp_path: Path, batch_size: int) -> None:
    make_bank(300).save_pretrained(tmp_path / "source", max_shard_size="10KB")
    source, adapter = PromptBank.from_pretrained(tmp_path / "source"), make_adapter()
    assert len(list((tmp_path / "source" / "data").iterdir())) > 3
    found = migrate_to(tmp_path / "target", adapter, source, batch_size=batch_size, max_shard_size="10KB")
    assert len(list((tmp_path / "target" / "data").iterdir())) > 2
    assert same(migrate(adapter, source), found)


def test_two_sources_with_users_in_another_order(tmp_path: Path) -> None:
    one, two = make_bank(50), make_bank(60, size=16)
    two = two.select(reversed(two.user_ids))
    adapter = make_adapter(one.model, two.model)
    found = migrate_to(tmp_path / "target", adapter, [one, two], batch_size=7)
    assert same(migrate(adapter, [one, two]), found)
    assert found.provenance.details["users_left_out"] == 10


def test_the_provenance_is_made_without_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from puma_hub.migration.plan import MigrationPlan

    bank, adapter = make_bank(), make_adapter()
    expected = migrate(adapter, bank).provenance.to_dict()
    monkeypatch.setattr(PromptBank, "prompts", property(lambda _: pytest.fail("prompts were read")))
    monkeypatch.setattr(PromptBank, "prompts_at", lambda *_: pytest.fail("prompts were read"))
    made = MigrationPlan.of(adapter, bank).provenance().to_dict()
    assert made == {**expected, "statistics": None}


def test_the_command_never_holds_all_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users, size = 20_000, 128
    prompts = np.random.default_rng(0).standard_normal((users, 1, size), dtype=np.float32)
    spec = ModelSpec("source", size)
    PromptBank.from_arrays([f"user-{n:06d}" for n in range(users)], prompts, spec).save_pretrained(tmp_path / "source")
    adapter = PumaAdapter(PumaConfig(sources=[spec], target=ModelSpec("target", size), hidden_size=16))
    adapter.save_pretrained(tmp_path / "adapter")
    del prompts
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank", str(tmp_path / "source")]
    main([*command, "--out", str(tmp_path / "warm")])  # what is imported on the way is not counted
    tracemalloc.start()  # NumPy's arrays
    status = main([*command, "--batch-size", "500", "--out", str(tmp_path / "target")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 0 and peak < users * size * 4 / 2
    assert len(PromptBank.from_pretrained(tmp_path / "target")) == users
