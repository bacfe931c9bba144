"""A bank in a folder: the format of the Hub, read where it lies, whole or not at all."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_hub import ClickTask, ModelSpec, PromptBank, RatingTask
from puma_hub.bank import Provenance
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, StorageError, UnknownUserError
from puma_hub.storage.contents import is_bank
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank

SHARD = "data/train-00000-of-00001.parquet"


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
    bank.save_pretrained(tmp_path / "bank")
    loaded = PromptBank.from_pretrained(tmp_path / "bank")
    assert np.array_equal(loaded.prompts, prompts)
    assert loaded.user_ids == bank.user_ids
    assert loaded.provenance == bank.provenance
    assert loaded.head is not None
    for name, tensor in head.state_dict().items():
        assert np.array_equal(loaded.head.state_dict()[name], tensor)
    files = {str(path.relative_to(tmp_path / "bank")) for path in (tmp_path / "bank").rglob("*") if path.is_file()}
    assert files == {"bank.json", "head.safetensors", SHARD}
    assert is_bank(tmp_path / "bank") and not is_bank(tmp_path)


def test_datasets_reads_the_folder(tmp_path: Path) -> None:
    bank = make_bank(30).select([f"user-{number}" for number in range(29, -1, -1)])
    bank.save_pretrained(tmp_path / "bank", max_shard_size=1000)
    rows = datasets.load_dataset(str(tmp_path / "bank"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features == bank.dataset.features and rows["user_id"][:] == sorted(bank.user_ids)
    assert len(list(tmp_path.rglob("*.parquet"))) > 3
    assert all(np.array_equal(bank[row["user_id"]].ravel(), row["prompt"]) for row in rows)
    loaded = PromptBank.from_pretrained(tmp_path / "bank")
    assert loaded.dataset.to_dict() == rows.to_dict()
    mapped = PromptBank(rows, bank.provenance)
    assert mapped.dataset.cache_files and np.shares_memory(mapped.prompts, mapped.prompts)
    assert all(np.array_equal(mapped[user], prompt) for user, prompt in loaded)


@pytest.fixture
def large(tmp_path: Path) -> tuple[PromptBank, PromptBank, Path]:
    """A bank of many row groups in three files: in memory, in its folder, and the folder."""
    bank = make_bank(1000, size=1024, template="rating")
    bank.save_pretrained(tmp_path / "bank", max_shard_size=1_700_000)
    return bank, PromptBank.from_pretrained(tmp_path / "bank"), tmp_path / "bank"


def test_a_bank_in_files_is_the_bank_in_memory(large: tuple[PromptBank, PromptBank, Path]) -> None:
    bank, loaded, folder = large
    shards = sorted((folder / "data").iterdir())
    assert len(shards) == 3 and pq.ParquetFile(shards[0]).num_row_groups > 2
    assert loaded.user_ids == sorted(bank.user_ids)
    assert all(np.array_equal(prompt, bank[user]) for user, prompt in loaded)
    assert np.array_equal(loaded.prompts, bank.prompts[bank.rows(loaded.user_ids)])
    some = ["user-999", "user-0", "user-500", "user-1"]
    assert np.array_equal(loaded.select(some).prompts, bank.select(some).prompts)
    assert np.array_equal(loaded.prompts_at([5, 3, 5]), loaded.prompts[[5, 3, 5]])
    for users, prompts in loaded.batches(300):
        assert np.array_equal(prompts, bank.prompts[bank.rows(users)])
    rest, new = loaded.remove(some), make_bank(1002, size=1024, template="rating", statistics=bank.statistics)
    merged = rest.update(new.select(["user-3", "user-1001"]))
    assert len(rest) == 996 and len(merged) == 997
    assert np.array_equal(merged["user-3"], new["user-3"]) and np.array_equal(merged["user-4"], bank["user-4"])
    merged.save_pretrained(folder.parent / "merged")
    again = PromptBank.from_pretrained(folder.parent / "merged")
    assert all(np.array_equal(again[user], prompt) for user, prompt in merged)
    assert PromptBank.from_pretrained(folder, users=some).user_ids == some
    with pytest.raises(UnknownUserError, match="1 of 2 users"):
        PromptBank.from_pretrained(folder, users=["user-1", "nobody"])


def test_a_look_up_reads_no_other_rows(large: tuple[PromptBank, PromptBank, Path]) -> None:
    bank, _, folder = large
    shard = sorted((folder / "data").iterdir())[1]
    metadata = pq.ParquetFile(shard).metadata
    column = metadata.row_group(1).column(1)
    assert column.path_in_schema.startswith("prompt")
    content = bytearray(shard.read_bytes())
    content[column.data_page_offset + 2000] ^= 1  # one bit of one prompt
    shard.write_bytes(content)
    loaded = PromptBank.from_pretrained(folder)
    readable = 0
    for user in loaded.user_ids:
        try:
            readable += np.array_equal(loaded[user], bank[user])
        except CheckpointError:
            continue
    assert readable == len(bank) - metadata.row_group(1).num_rows
    for read in (lambda: loaded.prompts, lambda: list(loaded), lambda: loaded.dataset, lambda: list(loaded.batches())):
        with pytest.raises(CheckpointError, match="damaged"):
            read()
    with pytest.raises(CheckpointError, match="damaged"):
        loaded.save_pretrained(folder.parent / "copy")
    assert not (folder.parent / "copy").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_of_files_are_checked_when_they_are_read(tmp_path: Path, value: float) -> None:
    make_bank(40).save_pretrained(tmp_path / "bank")
    table = pq.read_table(tmp_path / "bank" / SHARD)
    rows = datasets.Dataset(table).to_dict()
    rows["prompt"][7][3] = value
    changed = datasets.Dataset.from_dict(rows)
    features = make_bank().dataset.features
    changed.cast(features).to_parquet(tmp_path / "bank" / SHARD)
    changed.cast(features).save_to_disk(str(tmp_path / "mapped"))
    mapped = datasets.load_from_disk(str(tmp_path / "mapped"))
    user, other = rows["user_id"][7], rows["user_id"][8]
    for bank in (PromptBank.from_pretrained(tmp_path / "bank"), PromptBank(mapped, make_bank(40).provenance)):
        assert np.array_equal(bank[other], make_bank(40)[other])
        assert len(bank.select([other])) == len(bank.remove([user])) - 38 == 1
        for read in (
            lambda bank=bank: bank[user],
            lambda bank=bank: bank.prompts,
            lambda bank=bank: list(bank),
            lambda bank=bank: list(bank.batches(5)),
            lambda bank=bank: bank.select([other, user]),
            lambda bank=bank: bank.remove([other]),
            lambda bank=bank: make_bank(2, statistics=bank.statistics).update(bank),
            lambda bank=bank: bank.save_pretrained(tmp_path / "copy"),
        ):
            with pytest.raises(BankError, match="prompt in row 7 holds NaN or infinite"):
                read()


def test_a_bank_that_is_replaced_goes_on(large: tuple[PromptBank, PromptBank, Path]) -> None:
    bank, loaded, folder = large
    kept = pickle.dumps(loaded)  # as a worker process is handed the bank; in memory, never on disk
    copy = pickle.loads(kept)
    assert copy.user_ids == loaded.user_ids and np.array_equal(copy["user-7"], bank["user-7"])
    loaded.with_provenance(made_by="trained").save_pretrained(folder)  # onto itself
    assert PromptBank.from_pretrained(folder).provenance.made_by == "trained"
    make_bank(3).save_pretrained(folder)
    assert len(PromptBank.from_pretrained(folder)) == 3
    assert np.array_equal(loaded.prompts, bank.prompts[bank.rows(loaded.user_ids)])
    with pytest.raises(CheckpointError, match="were replaced"):
        pickle.loads(kept)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"row_group_size": 7}, {"use_dictionary": True}])
def test_files_written_by_others(tmp_path: Path, options: dict[str, object]) -> None:
    bank = make_bank(30)
    bank.save_pretrained(tmp_path / "bank")
    table = bank.dataset.data.table  # in another order
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "bank" / SHARD, **options)
    loaded = PromptBank.from_pretrained(tmp_path / "bank")
    assert loaded.user_ids == bank.user_ids and all(np.array_equal(loaded[user], prompt) for user, prompt in bank)
    frame = datasets.Dataset(table).to_pandas()  # lists of any length
    frame.to_parquet(tmp_path / "bank" / SHARD)
    assert np.array_equal(PromptBank.from_pretrained(tmp_path / "bank").prompts, bank.prompts)


def test_an_empty_bank(tmp_path: Path) -> None:
    make_bank(0).save_pretrained(tmp_path / "bank")
    loaded = PromptBank.from_pretrained(tmp_path / "bank")
    assert len(loaded) == 0 and list(loaded) == [] and loaded.prompts.shape == (0, 1, 32)
    assert len(loaded.update(make_bank(1))) == 1 and len(loaded.dataset) == 0


def test_as_many_files_as_can_be_read_again(bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.save_pretrained(tmp_path / "bank", max_shard_size=2**90)
    assert len(PromptBank.from_pretrained(tmp_path / "bank")) == 8
    monkeypatch.setattr("puma_hub.bank.shards.MAX_FILES", 7)
    with pytest.raises(ConfigurationError, match="8 files of 8 users, more than 7; give a larger size"):
        bank.save_pretrained(tmp_path / "bank", max_shard_size=1)


@pytest.mark.parametrize("size", ["many", 0, "0MB", -5])
def test_shard_sizes(bank: PromptBank, tmp_path: Path, size: int | str) -> None:
    with pytest.raises(ConfigurationError, match="max_shard_size"):
        bank.save_pretrained(tmp_path / "bank", max_shard_size=size)


def test_damaged_folders(bank: PromptBank, tmp_path: Path, head: RatingHead) -> None:
    folder = tmp_path / "bank"
    with pytest.raises(StorageError, match="it is not a folder"):
        PromptBank.from_pretrained(folder)
    PromptBank(bank.dataset, bank.provenance, head).save_pretrained(folder)
    (folder / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes()[:50])
    with pytest.raises(CheckpointError, match="rating head"):
        PromptBank.from_pretrained(folder)
    (folder / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks head\.safetensors"):
        PromptBank.from_pretrained(folder)
    bank.save_pretrained(folder)
    whole = (folder / SHARD).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(100) + b"PAR1"):
        (folder / SHARD).write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            PromptBank.from_pretrained(folder)
    make_bank(7).dataset.to_parquet(folder / SHARD)
    with pytest.raises(CheckpointError, match="should hold 8 users, but its files hold 7"):
        PromptBank.from_pretrained(folder)
    bank.dataset.remove_columns("prompt").to_parquet(folder / SHARD)
    with pytest.raises(BankError, match="lack prompt"):
        PromptBank.from_pretrained(folder)
    (folder / SHARD).unlink()
    with pytest.raises(CheckpointError, match="lacks data/train-00000"):
        PromptBank.from_pretrained(folder)
    (folder / "bank.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        PromptBank.from_pretrained(folder)
    (folder / "bank.json").unlink()
    with pytest.raises(StorageError, match="not a prompt bank"):
        PromptBank.from_pretrained(folder)
    with pytest.raises(StorageError, match="folder or repository"):
        PromptBank.from_pretrained(None)  # type: ignore[arg-type]


def test_newer_format_is_refused_and_unknown_keys_are_not(bank: PromptBank, tmp_path: Path) -> None:
    bank.save_pretrained(tmp_path / "b")
    file = tmp_path / "b" / "bank.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "future": 1}))
    assert len(PromptBank.from_pretrained(tmp_path / "b")) == 8
    file.write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(BankError, match="pip install -U"):
        PromptBank.from_pretrained(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"users": float("inf")}, "users must be a whole number"),
        ({"users": 1e300}, "users must be a whole number"),
        ({"users": 10**400}, "users must be a whole number"),
        ({"users": True}, "users must be a whole number"),
        ({"users": "8"}, "users must be a whole number"),
        ({"users": 2**40, "rows_per_shard": 1}, "more than 99999 files"),  # their names would fill the memory
        ({"rows_per_shard": float("nan")}, "rows_per_shard must be a whole number"),
        ({"rows_per_shard": 10**400}, "rows_per_shard must be a whole number"),
        ({"rating_head": "false"}, "rating_head must be true or false"),
        ({"license": ["mit"]}, "license must be a non-empty string"),
        ({"card": 7}, "card must be a SHA-256"),
        ({"model": 3}, "a model spec needs"),
        ({"prompt_length": 10**400}, "prompt_length must be a whole number"),
        ({"format_version": None}, "format_version must be a whole number"),
        ({"task": 7}, "a task is"),
        ({"task": {"name": "rating", "values": 3}}, "malformed"),
        ({"details": "none"}, "must be a mapping"),
        ({"history": {"a": 1}}, "must be a list of mappings"),
        ({"template": 5}, "a template is a text"),
    ],
)
def test_malformed_descriptions(bank: PromptBank, tmp_path: Path, changes: dict[str, object], told: str) -> None:
    bank.save_pretrained(tmp_path / "b")
    file = tmp_path / "b" / "bank.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=told) as caught:
        PromptBank.from_pretrained(tmp_path / "b")
    assert "bank.json" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", ["statistics", "trained_rows"])
@pytest.mark.parametrize("value", [5, "x", [1], {"a": 1}, {"mean": 3, "spread": "x", "users": None}, {"hashes": 7}])
def test_malformed_parts_of_descriptions(bank: PromptBank, tmp_path: Path, key: str, value: object) -> None:
    bank.save_pretrained(tmp_path / "b")
    file = tmp_path / "b" / "bank.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises((CheckpointError, BankError)):
        PromptBank.from_pretrained(tmp_path / "b")


def test_saving_over_a_bank_replaces_it_whole(
    bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bank"
    bank.save_pretrained(folder)
    make_bank(3).save_pretrained(folder)
    assert len(PromptBank.from_pretrained(folder)) == 3

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        bank.save_pretrained(folder)
    assert len(PromptBank.from_pretrained(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]  # nothing half-written beside it


def test_a_file_in_the_way(bank: PromptBank, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        bank.save_pretrained(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot write"):
        bank.save_pretrained(tmp_path / "file" / "bank")


# Whatever ids and facts there are

IDS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=12, unique=True
)


@settings(max_examples=40, deadline=None)
@given(IDS, st.integers(1, 3))
def test_ids_of_all_letters(ids: list[str], per_shard: int) -> None:
    prompts = np.random.default_rng(len(ids)).normal(size=(len(ids), 1, 4))
    bank = PromptBank.from_arrays(ids, prompts, ModelSpec("m", 4))
    with tempfile.TemporaryDirectory() as place:
        bank.save_pretrained(f"{place}/bank", max_shard_size=per_shard * 40)
        loaded = PromptBank.from_pretrained(f"{place}/bank")
        assert loaded.user_ids == sorted(ids) == sorted(ids, key=str.encode)  # letters beyond U+FFFF too
        for bank_of_both in (bank, loaded):
            assert all(np.array_equal(bank_of_both[user], prompt) for user, prompt in bank)
        assert "".join(ids) + "?" not in loaded
        for path in Path(place).rglob("*.parquet"):  # where a reader of some users looks
            metadata = pq.ParquetFile(path).metadata
            if metadata.num_rows:
                found = pq.read_table(path, columns=["user_id"])["user_id"].to_pylist()
                statistics = metadata.row_group(0).column(0).statistics
                assert (statistics.min, statistics.max) == (min(found), max(found))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=8).filter(str.strip)
FACTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3),
    max_leaves=6,
)
SPECS = st.builds(
    ModelSpec,
    model_id=NAMES,
    hidden_size=st.just(4),
    revision=st.none() | NAMES,
    model_type=st.none() | NAMES,
    fingerprint=st.none() | st.just("0" * 16),
)
TASKS = st.sampled_from([None, RatingTask(), RatingTask((1, 2, 3), 0.5), ClickTask()])
TEMPLATES = st.sampled_from([None, "rating", "click"]) | TEXT.map(lambda text: "<item> <user> " + text.replace("<", ""))


@settings(max_examples=40, deadline=None)
@given(SPECS, TASKS, TEMPLATES, NAMES, st.dictionaries(TEXT, FACTS, max_size=3), st.lists(st.dictionaries(TEXT, FACTS)))
def test_provenance_of_all_kinds(
    spec: ModelSpec, task: object, template: str | None, made_by: str, details: dict, history: list[dict]
) -> None:
    facts = {"template": template, "task": task, "made_by": made_by, "details": details, "history": tuple(history)}
    bank = PromptBank.from_arrays(["a"], np.ones((1, 1, 4)), spec, **facts)
    assert Provenance.from_dict(json.loads(json.dumps(bank.provenance.to_dict()))) == bank.provenance
    with tempfile.TemporaryDirectory() as place:
        bank.save_pretrained(f"{place}/bank")
        assert PromptBank.from_pretrained(f"{place}/bank").provenance == bank.provenance
