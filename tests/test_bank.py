"""Prompt banks: look-up, storage, provenance and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank, RatingTask
from puma_hub.errors import BankError, CheckpointError, MismatchError, StorageError, UnknownUserError
from puma_hub.scorer import RatingHead
from tests.conftest import make_bank


def test_round_trip_keeps_everything(tmp_path: Path, head: RatingHead) -> None:
    prompts = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32)
    bank = PromptBank.from_arrays(
        [f"u{i}" for i in range(5)],
        prompts,
        ModelSpec("some/model", 6, revision="abc", model_type="llama", fingerprint="0" * 16),
        head=head,
        template="rating",
        task=RatingTask(),
        made_by="trained",
        details={"seed": 1},
        history=({"made_by": "given"},),
    )
    bank.save_to_disk(tmp_path / "bank")
    loaded = PromptBank.load_from_disk(tmp_path / "bank")
    assert np.array_equal(loaded.prompts, prompts)
    assert loaded.user_ids == bank.user_ids
    assert loaded.provenance == bank.provenance
    assert loaded.head is not None
    for name, tensor in head.state_dict().items():
        assert np.array_equal(loaded.head.state_dict()[name], tensor)
    assert {file.suffix for file in (tmp_path / "bank").iterdir()} <= {".json", ".arrow", ".safetensors"}


def test_prompts_are_a_view_of_the_memory_map(tmp_path: Path) -> None:
    make_bank(100).save_to_disk(tmp_path / "bank")
    loaded = PromptBank.load_from_disk(tmp_path / "bank")
    assert loaded.dataset.cache_files  # on disk, not in memory
    column = loaded.dataset.data.column("prompt").chunk(0)
    assert loaded.prompts.ctypes.data == column.flatten().buffers()[1].address
    assert not loaded.prompts.flags.writeable


def test_look_up_does_not_read_other_rows(bank: PromptBank) -> None:
    assert np.array_equal(bank["user-3"], bank.prompts[3])
    assert [user for user, _ in bank] == bank.user_ids
    assert np.array_equal(dict(bank)["user-7"], bank.prompts[7])
    with pytest.raises(UnknownUserError, match="not among the 8 users") as caught:
        bank["secret-name"]
    assert "secret-name" not in str(caught.value)


def test_any_word_is_an_id() -> None:
    ids = ["None", "null", "nan"]
    assert PromptBank.from_arrays(ids, np.zeros((3, 1, 4)), ModelSpec("m", 4)).user_ids == ids


def test_select_remove_update(bank: PromptBank) -> None:
    chosen = bank.select(["user-5", "user-2"])
    assert chosen.user_ids == ["user-5", "user-2"]
    assert np.array_equal(chosen.prompts, bank.prompts[[5, 2]])
    assert chosen.provenance == bank.provenance
    rest = bank.remove(["user-5", "user-2"])
    assert len(rest) == 6 and "user-5" not in rest
    other = make_bank(3, seed=9)
    merged = rest.update(other)
    assert len(merged) == 7
    assert np.array_equal(merged["user-2"], other["user-2"])
    assert np.array_equal(merged["user-7"], bank["user-7"])


def test_extra_columns_stay(bank: PromptBank, tmp_path: Path) -> None:
    wide = PromptBank(bank.dataset.add_column("country", [str(i) for i in range(8)]), bank.provenance)  # type: ignore[call-arg]
    wide.select(["user-4"]).save_to_disk(tmp_path / "b")
    assert PromptBank.load_from_disk(tmp_path / "b").dataset["country"][:] == ["4"]


def test_a_selected_dataset_is_read_by_its_index(bank: PromptBank) -> None:
    shuffled = PromptBank(bank.dataset.select([6, 1]), bank.provenance)
    assert shuffled.user_ids == ["user-6", "user-1"]
    assert np.array_equal(shuffled.prompts, bank.prompts[[6, 1]])


def test_any_float_dtype_is_accepted() -> None:
    for dtype in (np.float16, np.float64):
        array = np.ones((1, 1, 4), dtype)
        assert PromptBank.from_arrays(["a"], array, ModelSpec("m", 4)).prompts.dtype == np.float32


NAN = np.full((2, 1, 4), np.nan, np.float32)
ONES = np.ones((2, 1, 4), np.float32)


@pytest.mark.parametrize(
    ("ids", "prompts", "message"),
    [
        (["a", "a"], ONES, "duplicates"),
        (["a", ""], ONES, "empty"),
        (["a"], ONES, "1 user ids for 2 prompts"),
        (["a", 3], ONES, "must be strings"),
        (["a", "b"], NAN, "NaN or infinite"),
        (["a", "b"], ONES * np.inf, "NaN or infinite"),
        (["a", "b"], ONES[:, 0], "must have shape"),
        (["a", "b"], ONES[:, :, :3], "must have shape"),
        (["a", "b"], ONES[:, :0], "must have shape"),
    ],
)
def test_bad_arrays(ids: list[str], prompts: np.ndarray, message: str) -> None:
    with pytest.raises(BankError, match=message):
        PromptBank.from_arrays(ids, prompts, ModelSpec("m", 4))


def test_bad_datasets(bank: PromptBank) -> None:
    with pytest.raises(BankError, match="user_id missing"):
        PromptBank(bank.dataset.remove_columns("user_id"), bank.provenance)
    with pytest.raises(BankError, match="must be List"):
        PromptBank(datasets.Dataset.from_dict({"user_id": ["a"], "prompt": [[1.0, 2.0]]}), bank.provenance)


def test_other_users_are_counted_not_named(bank: PromptBank) -> None:
    with pytest.raises(UnknownUserError, match="1 of 2 users") as caught:
        bank.select(["user-1", "secret-name"])
    assert "secret-name" not in str(caught.value)
    with pytest.raises(BankError, match="more than once"):
        bank.select(["user-1", "user-1"])


def test_update_refuses_another_model_or_length(bank: PromptBank) -> None:
    with pytest.raises(MismatchError, match="hidden size 32"):
        bank.update(make_bank(size=16))
    with pytest.raises(BankError, match="the banks differ"):
        bank.update(make_bank(length=2))


def test_damaged_folders(bank: PromptBank, tmp_path: Path, head: RatingHead) -> None:
    folder = tmp_path / "bank"
    with pytest.raises(StorageError, match="does not exist"):
        PromptBank.load_from_disk(folder)
    PromptBank(bank.dataset, bank.provenance, head).save_to_disk(folder)
    (folder / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes()[:50])
    with pytest.raises(CheckpointError, match="rating head"):
        PromptBank.load_from_disk(folder)
    (folder / "head.safetensors").unlink()
    arrow = next(folder.glob("*.arrow"))
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        PromptBank.load_from_disk(folder)
    arrow.write_bytes(whole)
    (folder / "provenance.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        PromptBank.load_from_disk(folder)
    (folder / "provenance.json").unlink()
    with pytest.raises(StorageError, match="not a prompt bank"):
        PromptBank.load_from_disk(folder)


def test_newer_format_is_refused_and_unknown_keys_are_not(bank: PromptBank, tmp_path: Path) -> None:
    bank.save_to_disk(tmp_path / "b")
    file = tmp_path / "b" / "provenance.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "future": 1}))
    assert len(PromptBank.load_from_disk(tmp_path / "b")) == 8
    file.write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(BankError, match="pip install -U"):
        PromptBank.load_from_disk(tmp_path / "b")


def test_saving_over_a_bank_replaces_it_whole(
    bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bank"
    bank.save_to_disk(folder)
    make_bank(3).save_to_disk(folder)
    assert len(PromptBank.load_from_disk(folder)) == 3

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        bank.save_to_disk(folder)
    assert len(PromptBank.load_from_disk(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]  # nothing half-written beside it


def test_a_file_in_the_way(bank: PromptBank, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        bank.save_to_disk(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot write"):
        bank.save_to_disk(tmp_path / "file" / "bank")
