"""Banks whose prompts are stored in fewer bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, migrate
from puma_hub.bank.rounding import DTYPES, ROUNDED, Rounding
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError
from puma_hub.migration import Share, chain, chain_to, migrate_changes, migrate_share, migrate_to

USERS, SIZE = 5000, 64
ROUNDINGS = DTYPES[1:]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PromptBank:
    random = np.random.default_rng(3)
    prompts = (random.standard_normal(32) + 0.3 * random.standard_normal((USERS, 1, 32))).astype(np.float32)
    folder = tmp_path_factory.mktemp("rounding") / "source"
    bank = PromptBank.from_arrays([f"u{i:05}" for i in range(USERS)], prompts, ModelSpec("source", 32))
    bank.save_pretrained(folder, max_shard_size="300KB")
    return PromptBank.from_pretrained(folder)


def make_adapter(source: str = "source", target: str = "target", hidden: int = 32) -> PumaAdapter:
    torch.manual_seed(0)
    return PumaAdapter(PumaConfig(sources=[ModelSpec(source, hidden)], target=ModelSpec(target, SIZE), hidden_size=48))


def require_nearest(found: np.ndarray, dtype: str, values: np.ndarray, step: float | None) -> None:
    """By numpy, and for bfloat16 by the bits: round to nearest, ties to even; int8 may end either way in a tie."""
    if dtype == "float16":
        expected = values.astype(np.float16).astype(np.float32)
    elif dtype == "bfloat16":
        bits = values.view(np.uint32).astype(np.uint64)
        kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
        expected = kept.astype(np.uint32).view(np.float32)
    else:
        assert step is not None
        numbers = found / step
        assert np.abs(numbers - np.round(numbers)).max() < 1e-4 and np.abs(numbers).max() < 127.5
        assert np.abs(found - np.clip(values, -127 * step, 127 * step)).max() < 0.5001 * step
        return
    assert np.array_equal(found, expected)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "data").glob("*.parquet"))


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.5), ("float16", 0.6), ("int8", 0.3)])
def test_values_are_the_nearest_and_files_are_smaller(
    tmp_path: Path, source: PromptBank, dtype: str, most: float
) -> None:
    whole = migrate_to(tmp_path / "whole", make_adapter(), source)
    found = migrate_to(tmp_path / "rounded", make_adapter(), source, dtype=dtype)
    details = found.provenance.details[ROUNDED]
    assert details["dtype"] == dtype and (details["step"] is not None) == (dtype == "int8")
    require_nearest(found.prompts, dtype, whole.prompts, details["step"])
    assert size_of(tmp_path / "rounded") < most * size_of(tmp_path / "whole")
    # What is stated is what was lost.
    offsets = whole.prompts - whole.prompts.mean(axis=0)
    lost = np.sqrt(np.square(found.prompts - whole.prompts).mean() / np.square(offsets).mean())
    assert details["error"] == pytest.approx(lost, rel=0.1)
    # Every reader sees float32.
    files = [str(path) for path in sorted((tmp_path / "rounded" / "data").glob("*.parquet"))]
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features["prompt"] == datasets.List(datasets.Value("float32"), SIZE)
    frame = pandas.concat(map(pandas.read_parquet, files))
    assert np.array_equal(np.stack(frame["prompt"].to_list()), found.prompts[:, 0])
    assert np.array_equal(found["u00017"], found.prompts[17])


@pytest.mark.parametrize("dtype", ROUNDINGS)
def test_saved_again_they_stay_small_and_keep_their_bits(tmp_path: Path, source: PromptBank, dtype: str) -> None:
    found = migrate_to(tmp_path / "rounded", make_adapter(), source, dtype=dtype)
    found.save_pretrained(tmp_path / "again")
    again = PromptBank.from_pretrained(tmp_path / "again")
    assert again.prompts.tobytes() == found.prompts.tobytes()
    assert size_of(tmp_path / "again") < 1.1 * size_of(tmp_path / "rounded")
    PromptBank.from_batches(tmp_path / "batches", found.batches(999), found.provenance)
    assert size_of(tmp_path / "batches") < 1.1 * size_of(tmp_path / "rounded")


@pytest.mark.parametrize("dtype", ROUNDINGS)
def test_batches_shares_and_changes_round_alike(tmp_path: Path, source: PromptBank, dtype: str) -> None:
    adapter = make_adapter()
    found = migrate_to(tmp_path / "one", adapter, source, dtype=dtype, batch_size=512)
    assert migrate_share(tmp_path / "two", adapter, source, Share(1, 2), dtype=dtype, batch_size=77) is None
    shared = migrate_share(tmp_path / "two", adapter, source, Share(2, 2), dtype=dtype)
    assert shared is not None and shared.provenance == found.provenance
    assert shared.prompts.tobytes() == found.prompts.tobytes()
    # Since then one prompt has changed, to a larger one: it is rounded by the step that was found then.
    prompts = source.prompts.copy()
    prompts[7] *= 1.5
    now = PromptBank.from_arrays(source.user_ids, prompts, source.model, statistics=source.statistics)
    changed, kept = migrate_changes(tmp_path / "one", adapter, now, source)
    assert kept == USERS - 1 and changed.provenance.details[ROUNDED] == found.provenance.details[ROUNDED]
    expected = migrate(adapter, now.select(["u00007"])).prompts
    step = found.provenance.details[ROUNDED]["step"]
    require_nearest(changed.prompts[7:8], dtype, expected, step)
    others = np.arange(USERS) != 7
    assert changed.prompts[others].tobytes() == found.prompts[others].tobytes()


def test_a_chain_rounds_once_at_its_end(tmp_path: Path, source: PromptBank) -> None:
    steps = [make_adapter(target="middle"), make_adapter("middle", "end", SIZE)]
    given = source.select(source.user_ids[:200])
    expected = chain(given, steps).prompts
    found = chain_to(tmp_path / "end", given, steps, dtype="bfloat16")
    require_nearest(found.prompts, "bfloat16", expected, None)
    assert [ROUNDED in step.get("details", {}) for step in found.provenance.lineage] == [False, False, True]


def test_what_cannot_be_rounded(tmp_path: Path, source: PromptBank) -> None:
    with pytest.raises(ConfigurationError, match="float32, float16, bfloat16, int8, got 'fp8'"):
        migrate_to(tmp_path / "target", make_adapter(), source, dtype="fp8")
    with pytest.raises(BankError, match=r"7e\+04 are too large for float16"):
        Rounding("float16").rounded(np.full((1, 1, 4), 7e4, np.float32))
    with pytest.raises(ConfigurationError, match="positive number"):
        Rounding("int8")
    assert not (tmp_path / "target").exists()
    # Prompts beyond those that the step was chosen by are cut, and all zeros stay zeros.
    cut = Rounding("int8", 0.01).rounded(np.array([[[2.0, -5.0, 0.005, 0.0]]], np.float32))
    assert np.allclose(cut, [[[1.27, -1.27, 0.0, 0.0]]])
    nothing = Rounding.fitted("int8", np.zeros((2, 1, 4), np.float32))
    assert nothing is not None and nothing.error is None and not nothing.rounded(np.zeros((2, 1, 4), np.float32)).any()


@pytest.mark.parametrize("given", [None, 3, {}, {"dtype": "int8"}, {"dtype": "fp4"}, {"dtype": "int8", "step": "x"}])
def test_a_note_that_cannot_be_read_is_no_rounding(tmp_path: Path, source: PromptBank, given: object) -> None:
    assert Rounding.of({ROUNDED: given}) is None
    bank = source.select(source.user_ids[:5])
    strange = bank.with_provenance(details={ROUNDED: given})
    strange.save_pretrained(tmp_path / "bank")
    assert np.array_equal(PromptBank.from_pretrained(tmp_path / "bank").prompts, bank.prompts)
    assert replace(strange.provenance) == strange.provenance


def test_on_the_command_line(tmp_path: Path, source: PromptBank, capsys: pytest.CaptureFixture[str]) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    source.save_pretrained(tmp_path / "source")
    given = ["--adapter", str(tmp_path / "adapter"), "--bank", str(tmp_path / "source")]
    out = ["--out", str(tmp_path / "target"), "--json", str(tmp_path / "report.json")]
    assert main(["migrate", *given, *out, "--dtype", "int8"]) == 0
    told = capsys.readouterr()
    assert "prompts are rounded to int8, which changes them by" in told.out
    assert "migrating: 100%" in told.err and f"{USERS}/{USERS}" in told.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rounded"]["dtype"] == "int8" and 0 < report["rounded"]["error"] < 0.1
    assert main(["migrate", *given, *out, "--since", str(tmp_path / "source"), "--dtype", "int8"]) == 2
    assert "leave --shard, --mean and --dtype out" in capsys.readouterr().err
