"""Migrations on a Ray cluster of two workers, one of which is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from puma_hub import PromptBank, migrate
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.migration import migrate_to, ray_files
from tests.conftest import make_bank
from tests.dying_actor import DiesOnce
from tests.trainings import make_trained

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)
USERS, FILES = 400, 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def stored(tmp_path: Path) -> PromptBank:
    make_bank(USERS).save_pretrained(tmp_path / "source", max_shard_size=50 * 147)
    found = PromptBank.from_pretrained(tmp_path / "source")
    assert len(list((tmp_path / "source" / "data").iterdir())) == FILES
    return found


def test_a_killed_worker_loses_nobody(
    cluster: None, stored: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "Writing", DiesOnce)
    adapter = make_trained(stored)
    here = migrate_to(tmp_path / "here", adapter, stored)
    there = migrate_to(tmp_path / "there", adapter, stored, engine="ray")  # on both cores
    assert (tmp_path / "died").exists()
    names = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path / "there") for p in (tmp_path / "there").rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name
    assert here.user_ids == there.user_ids == sorted(stored.user_ids)


def test_wrong_use(cluster: None, stored: PromptBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_trained(stored)
    with pytest.raises(ConfigurationError, match="goes from files to files"):
        migrate(adapter, stored, engine="ray")
    with pytest.raises(ConfigurationError, match="processes must be at least 1"):
        migrate_to(tmp_path / "out", adapter, stored, engine="ray", processes=-1)
    with torch.no_grad():
        adapter.input_scale.mul_(1e-9)  # so that every prompt lies absurdly far
    with pytest.raises(MismatchError, match="spreads from the mean"):
        migrate_to(tmp_path / "out", adapter, stored, engine="ray", processes=1)
    assert not (tmp_path / "out").exists()


def test_between_addresses_on_the_command_line(
    cluster: None, stored: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "Writing", DiesOnce)
    adapter = make_trained(stored)
    adapter.save_pretrained(tmp_path / "adapter")
    migrate_to(tmp_path / "here", adapter, stored)
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--bank", (tmp_path / "source").as_uri()]
    ray_options = ["--engine", "ray", "--option", "processes=1"]  # which is started anew
    assert main([*command, "--out", (tmp_path / "there").as_uri(), *ray_options]) == 0
    assert (tmp_path / "died").exists()
    found = {path.relative_to(tmp_path / "there"): path for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert len(found) == FILES + 2
    for name, path in found.items():
        assert path.read_bytes() == (tmp_path / "here" / name).read_bytes(), name
