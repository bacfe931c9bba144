"""Migrations file by file: what a kill leaves, several processes, further columns, and tables on their own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, migrate
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError, MismatchError, StorageError
from puma_hub.extensions import ENGINES
from puma_hub.migration import Share, TableMigration, migrate_changes, migrate_share, migrate_to
from puma_hub.migration.engine import in_torch
from tests.conftest import make_bank
from tests.trainings import make_trained

FILES, USERS = 6, 100


def make_adapter(*sources: ModelSpec, seed: int = 0) -> PumaAdapter:
    torch.manual_seed(seed)
    given = list(sources or (ModelSpec("source", 32),))
    return PumaAdapter(PumaConfig(sources=given, target=ModelSpec("target", 24), hidden_size=48))


@pytest.fixture
def stored(tmp_path: Path) -> PromptBank:
    """A bank in six files, with further columns."""
    bank = make_bank(USERS)
    rows = bank.dataset.add_column("age", list(range(USERS))).add_column("name", [f"n{i}" for i in range(USERS)])
    rows = rows.cast_column("age", datasets.Value("int8"))
    PromptBank(rows, bank.provenance).save_pretrained(tmp_path / "source", max_shard_size=2560)
    found = PromptBank.from_pretrained(tmp_path / "source")
    assert len(files(tmp_path / "source")) == FILES
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("*.parquet"))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def counted() -> Iterator[Callable[[int | None, Any], list[int]]]:
    """An engine that counts the files it begins, and fails at one of them."""
    began: list[int] = []

    def chosen(fails_at: int | None = None, error: Any = None) -> list[int]:
        def engine(adapter: Any, batches: Iterable[np.ndarray], references: Any) -> Any:
            began.append(1)
            if len(began) == fails_at:
                raise error
            return in_torch(adapter, batches, references)

        began.clear()
        if "counted" in ENGINES:
            ENGINES.unregister("counted")
        ENGINES.register("counted", engine, "for a test")
        return began

    yield chosen
    if "counted" in ENGINES:
        ENGINES.unregister("counted")


def test_each_file_becomes_a_file_with_the_same_users_and_further_columns(tmp_path: Path, stored: PromptBank) -> None:
    target = migrate_to(tmp_path / "target", make_adapter(), stored, batch_size=7)
    for source, found in zip(files(tmp_path / "source"), files(tmp_path / "target"), strict=True):
        before, after = pq.read_table(source), pq.read_table(found)
        for name in ("user_id", "age", "name"):
            assert after.column(name).equals(before.column(name)), name
        assert after.schema.field("age").type == pa.int8() and not after.schema.field("prompt").nullable
    # The same in memory, in whatever order users are.
    order = np.random.default_rng(0).permutation(USERS)
    mixed = migrate(make_adapter(), PromptBank(stored.dataset.select(order), stored.provenance))
    assert mixed.dataset["age"][:] == [stored.dataset["age"][row] for row in order]
    assert mixed.dataset.features["age"] == datasets.Value("int8")
    assert mixed.prompts_at(mixed.rows(target.user_ids)).tobytes() == target.prompts.tobytes()


def test_a_migration_goes_on_after_the_last_whole_file(
    tmp_path: Path, stored: PromptBank, counted: Callable[..., list[int]]
) -> None:
    adapter, whole = make_adapter(), migrate(make_adapter(), stored)
    began = counted(4, OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match="No space left"):
        migrate_to(tmp_path / "target", adapter, stored, engine="counted")
    assert not (tmp_path / "target").exists() and len(hidden(tmp_path)) == 1
    began = counted()
    found = migrate_to(tmp_path / "target", adapter, stored, engine="counted")
    assert len(began) == FILES - 3 and not hidden(tmp_path)
    assert found.prompts.tobytes() == whole.prompts_at(whole.rows(found.user_ids)).tobytes()


@pytest.mark.parametrize("other", ["adapter", "bank", "size"])
def test_what_another_migration_left_is_not_taken(
    tmp_path: Path, stored: PromptBank, counted: Callable[..., list[int]], other: str
) -> None:
    counted(4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        migrate_to(tmp_path / "target", make_adapter(), stored, engine="counted")
    began = counted()
    adapter = make_adapter(seed=1 if other == "adapter" else 0)
    if other == "bank":
        changed = PromptBank.from_arrays(stored.user_ids, stored.prompts + 1, stored.model)
        changed.save_pretrained(tmp_path / "source", max_shard_size=2560)
        stored = PromptBank.from_pretrained(tmp_path / "source")
    size = "10KB" if other == "size" else None
    found = migrate_to(tmp_path / "target", adapter, stored, engine="counted", max_shard_size=size)
    assert len(began) == len(files(tmp_path / "target"))
    assert found.prompts.tobytes() == migrate(adapter, stored).prompts.tobytes()


def test_wrong_input_leaves_nothing(tmp_path: Path, stored: PromptBank, counted: Callable[..., list[int]]) -> None:
    counted(4, BankError("wrong"))
    with pytest.raises(BankError, match="wrong"):
        migrate_to(tmp_path / "target", make_adapter(), stored, engine="counted")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_wrong_input_of_one_process_leaves_the_files_of_others(
    tmp_path: Path, stored: PromptBank, counted: Callable[..., list[int]]
) -> None:
    counted()
    assert migrate_share(tmp_path / "target", make_adapter(), stored, Share(1, 2), engine="counted") is None
    counted(1, BankError("wrong"))
    with pytest.raises(BankError, match="wrong"):
        migrate_share(tmp_path / "target", make_adapter(), stored, Share(2, 2), engine="counted")
    (left,) = hidden(tmp_path)
    assert len(list(tmp_path.glob(f"{left}/data/*.parquet"))) == FILES // 2
    began = counted()
    assert migrate_share(tmp_path / "target", make_adapter(), stored, Share(2, 2), engine="counted") is not None
    assert len(began) == FILES // 2 and not hidden(tmp_path)


def test_a_killed_process_leaves_whole_files_for_the_next(tmp_path: Path, stored: PromptBank) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    program = f"""
import os, signal
from puma_hub import PromptBank, PumaAdapter
from puma_hub.bank import shard_file
from puma_hub.migration import migrate_to
close, done = shard_file.ShardFile.close, []
def dies(self):
    done.append(1)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    close(self)
shard_file.ShardFile.close = dies
bank = PromptBank.from_pretrained({str(tmp_path / "source")!r})
migrate_to({str(tmp_path / "target")!r}, PumaAdapter.from_pretrained({str(tmp_path / "adapter")!r}), bank)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "target").exists()
    (left,) = hidden(tmp_path)
    assert len(list(tmp_path.glob(f"{left}/data/*.parquet"))) == 3
    assert os.stat(tmp_path / left).st_mode & 0o077 == 0  # prompts are personal
    adapter = PumaAdapter.from_pretrained(tmp_path / "adapter")
    found = migrate_to(tmp_path / "target", adapter, stored)
    assert found.prompts.tobytes() == migrate(adapter, stored).prompts.tobytes() and not hidden(tmp_path)


def test_processes_that_share_a_bank(tmp_path: Path, stored: PromptBank, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_adapter()
    for number in (3, 1):
        assert migrate_share(tmp_path / "target", adapter, stored, Share(number, 3)) is None
        assert migrate_share(tmp_path / "target", adapter, stored, Share(number, 3)) is None  # nothing is left to do
    found = migrate_share(tmp_path / "target", adapter, stored, Share(2, 3))
    assert found is not None and not hidden(tmp_path)
    assert found.prompts.tobytes() == migrate(adapter, stored).prompts.tobytes()
    adapter.save_pretrained(tmp_path / "adapter")
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank", str(tmp_path / "source")]
    command += ["--out", str(tmp_path / "by-hand"), "--shard"]
    assert main([*command, "1/2"]) == 0 and "files of other shares are not" in capsys.readouterr().out
    assert main([*command, "2/2"]) == 0 and "100 users" in capsys.readouterr().out
    for wrong in ("0/2", "3/2", "2", "a/b"):
        assert main([*command, wrong]) == 2 and "share" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="in memory cannot be shared"):
        migrate_share(tmp_path / "other", adapter, make_bank(9), Share(1, 2))


def test_tables_are_migrated_as_banks_are(tmp_path: Path, stored: PromptBank) -> None:
    adapter, whole = make_adapter(), migrate(make_adapter(), stored)
    migrated = pickle.loads(pickle.dumps(TableMigration(adapter, stored)))
    table = pq.read_table(files(tmp_path / "source")[1])
    for part in (table, table.slice(3, 1), table.slice(0, 0)):
        found = migrated(part)
        assert found.column_names == ["user_id", "prompt", "age", "name"] and len(found) == len(part)
        assert found.column("age").equals(part.column("age"))
        bank = PromptBank(datasets.Dataset(found), migrated.provenance, migrated.head)
        assert bank.prompts.tobytes() == whole.prompts_at(whole.rows(bank.user_ids)).tobytes()
    assert migrated.provenance.to_dict() == TableMigration(adapter, stored).provenance.to_dict()
    doubles = table.set_column(1, "prompt", table.column("prompt").cast(pa.list_(pa.float64())))
    assert migrated(doubles).column("prompt").equals(migrated(table).column("prompt"))
    bad = table.column("prompt").to_pylist()
    bad[2][5] = float("nan")
    with pytest.raises(BankError, match="row 2 holds NaN"):
        migrated(table.set_column(1, "prompt", pa.array(bad, pa.list_(pa.float32()))))
    with pytest.raises(BankError, match="needs the columns"):
        migrated(table.drop_columns(["prompt"]))
    two = make_adapter(ModelSpec("source", 32), ModelSpec("other", 32))
    with pytest.raises(ConfigurationError, match="joins 2 sources"):
        TableMigration(two, stored)


def test_only_new_and_changed_users_are_migrated(tmp_path: Path) -> None:
    trained = make_bank(40)
    adapter = make_trained(trained)
    folder = tmp_path / "source"
    trained.save_pretrained(folder, max_shard_size=2560)
    since = PromptBank.from_pretrained(folder)
    migrate_to(tmp_path / "target", adapter, since)
    # Seven leave, three have other prompts, five are new.
    changed, new = trained.user_ids[10:13], [f"new-{number}" for number in range(5)]
    rng = np.random.default_rng(0)
    now = trained.remove(trained.user_ids[:7]).update(
        PromptBank.from_arrays(
            [*changed, *new],
            rng.standard_normal((8, *trained.shape)).astype(np.float32),
            trained.model,
            statistics=trained.statistics,
        )
    )
    now.save_pretrained(tmp_path / "now", max_shard_size=2560)
    now = PromptBank.from_pretrained(tmp_path / "now")
    seen: list[int] = []

    def engine(adapter: Any, batches: Iterable[np.ndarray], references: Any) -> Any:
        for prompts, distances in in_torch(adapter, batches, references):
            seen.append(len(prompts))
            yield prompts, distances

    ENGINES.register("changes", engine, "for a test")
    try:
        found, kept = migrate_changes(tmp_path / "target", adapter, now, since, engine="changes")
    finally:
        ENGINES.unregister("changes")
    assert kept == 30 and sum(seen) == 8 + 30  # 30 are migrated again to compare
    whole = migrate(adapter, now)
    assert found.prompts.tobytes() == whole.prompts_at(whole.rows(found.user_ids)).tobytes()
    assert found.provenance.to_dict() == whole.provenance.to_dict()
    assert set(found.user_ids) == set(now.user_ids)
    # What does not belong together is refused, and nothing is written.
    before = {path: path.read_bytes() for path in files(tmp_path / "target")}
    other = make_trained(trained)
    with torch.no_grad():
        other.base.add_(1.0)
    with pytest.raises(MismatchError, match="is not what this adapter makes"):
        migrate_changes(tmp_path / "target", other, now, since)
    apart = trained.with_provenance(statistics=replace(trained.statistics, mean=trained.statistics.mean + 1))
    with pytest.raises(MismatchError, match="counted from different means"):
        migrate_changes(tmp_path / "target", adapter, apart, since)
    assert before == {path: path.read_bytes() for path in files(tmp_path / "target")}


def test_since_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = make_bank(40)
    adapter = make_trained(bank)
    adapter.save_pretrained(tmp_path / "adapter")
    bank.save_pretrained(tmp_path / "old")
    bank.remove(bank.user_ids[:5]).save_pretrained(tmp_path / "new")
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "target"), "--bank"]
    assert main([*command, str(tmp_path / "old")]) == 0
    assert main([*command, str(tmp_path / "new"), "--since", str(tmp_path / "old")]) == 0
    assert "35 users kept their migrated prompts" in capsys.readouterr().out
    assert len(PromptBank.from_pretrained(tmp_path / "target")) == 35
    assert main([*command, str(tmp_path / "new"), "--since", str(tmp_path / "old"), "--shard", "1/2"]) == 2
    assert "leave --shard, --mean and --dtype out" in capsys.readouterr().err
