"""Migrations between places of fsspec: a disk by its address, and files in memory as a bucket keeps them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError, MismatchError, MissingDependencyError, StorageError
from puma_hub.migration import migrate_between, migrate_to
from tests.conftest import make_bank
from tests.trainings import make_trained

USERS, FILES = 100, 6


@pytest.fixture
def bucket() -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True) if files.find("/") else None
    yield files
    files.rm("/", recursive=True) if files.find("/") else None


@pytest.fixture
def stored(tmp_path: Path) -> PromptBank:
    rows = make_bank(USERS).dataset.add_column("age", list(range(USERS)))
    bank = make_bank(USERS)
    PromptBank(rows, bank.provenance).save_pretrained(tmp_path / "source", max_shard_size=17 * 152)
    found = PromptBank.from_pretrained(tmp_path / "source")
    assert len(list((tmp_path / "source" / "data").iterdir())) == FILES
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_bucket(bucket: MemoryFileSystem, name: str) -> dict[str, bytes]:
    return {path.removeprefix(f"/{name}/"): bucket.cat_file(path) for path in bucket.find(f"/{name}")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_files_are_those_of_a_migration_on_a_disk(
    tmp_path: Path, stored: PromptBank, bucket: MemoryFileSystem, dtype: str
) -> None:
    adapter = make_trained(stored)
    expected = migrate_to(tmp_path / "expected", adapter, stored, dtype=dtype)
    bucket.put(str(tmp_path / "source"), "/team/source", recursive=True)
    users = migrate_between("memory://team/target", adapter, "memory://team/source", dtype=dtype)
    assert users == USERS and in_bucket(bucket, "team/target") == contents(tmp_path / "expected")
    # From a bucket to a folder, and from a folder to a bucket.
    migrate_between(str(tmp_path / "here"), adapter, "memory://team/source", dtype=dtype)
    assert contents(tmp_path / "here") == contents(tmp_path / "expected")
    assert np.array_equal(PromptBank.from_pretrained(tmp_path / "here").prompts, expected.prompts)
    migrate_between("memory://other", adapter, (tmp_path / "source").as_uri(), dtype=dtype)
    assert in_bucket(bucket, "other") == contents(tmp_path / "expected")


def test_a_migration_that_broke_off_goes_on(
    tmp_path: Path, stored: PromptBank, bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_trained(stored)
    migrate_to(tmp_path / "expected", adapter, stored)
    put, names = MemoryFileSystem.put_file, []

    def failing(self: Any, local: str, remote: str, *given: Any, **more: Any) -> None:
        names.append(remote)
        if len(names) == 4:
            self.pipe_file(remote, b"half of")
            raise ConnectionResetError("of https://user:secret@bucket")
        put(self, local, remote, *given, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(StorageError, match=r"cannot write .*ConnectionResetError") as caught:
        migrate_between("memory://target", adapter, str(tmp_path / "source"))
    assert "secret" not in str(caught.value)
    left = in_bucket(bucket, "target")
    assert "bank.json" not in left and len(left) == 4  # three files, and the note whose they are
    other = make_trained(stored)
    with torch.no_grad():
        other.base.add_(1.0)
    with pytest.raises(StorageError, match="another migration that was not finished"):
        migrate_between("memory://target", other, str(tmp_path / "source"))
    bucket.pipe_file("/target/data/train-00003-of-00006.parquet.00000000.writing", b"of a killed process")
    migrate_between("memory://target", adapter, str(tmp_path / "source"))
    assert len(names) == 4 + 3 + 2 and in_bucket(bucket, "target") == contents(tmp_path / "expected")
    with pytest.raises(StorageError, match="is not empty"):
        migrate_between("memory://target", adapter, str(tmp_path / "source"))


def test_what_cannot_be_migrated(tmp_path: Path, stored: PromptBank, bucket: MemoryFileSystem) -> None:
    adapter, source = make_trained(stored), str(tmp_path / "source")
    with pytest.raises(StorageError, match=r"no prompt bank at /nothing: bank\.json missing"):
        migrate_between("memory://target", adapter, "memory://nothing")
    with pytest.raises(StorageError, match="an address that fsspec knows"):
        migrate_between("nosuch://target", adapter, source)
    with pytest.raises(MissingDependencyError):
        migrate_between("adl://target", adapter, source)
    target = ModelSpec("target", 24)
    several = PumaAdapter(PumaConfig(sources=[stored.model, ModelSpec("other", 16)], target=target, hidden_size=48))
    with pytest.raises(ConfigurationError, match="several sources"):
        migrate_between("memory://target", several, source)
    raw = PumaAdapter(PumaConfig(sources=[stored.model], target=target, hidden_size=48))
    with pytest.raises(ConfigurationError, match="was not trained"):
        migrate_between("memory://target", raw, source)
    with torch.no_grad():
        adapter.input_scale.mul_(1e-9)  # so that every prompt lies absurdly far
    with pytest.raises(MismatchError, match="spreads from the mean"):
        migrate_between("memory://target", adapter, source)
    assert not in_bucket(bucket, "target")


def test_on_the_command_line(
    tmp_path: Path, stored: PromptBank, bucket: MemoryFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_trained(stored)
    adapter.save_pretrained(tmp_path / "adapter")
    bucket.put(str(tmp_path / "source"), "/source", recursive=True)
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank", "memory://source"]
    assert main([*command, "--out", (tmp_path / "out").as_uri(), "--json", str(tmp_path / "report.json")]) == 0
    assert f"{USERS} prompts in file://" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["users"] == USERS
    assert len(PromptBank.from_pretrained(tmp_path / "out")) == USERS
    assert main([*command, "--out", "memory://target", "--shard", "1/2"]) == 2
    assert "leave --missing, --shard" in capsys.readouterr().err
    assert stat.S_ISDIR((tmp_path / "out").stat().st_mode)
