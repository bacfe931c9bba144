"""Prompt banks: look-up, storage, provenance and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from puma_hub import ClickTask, ModelSpec, PromptBank, RatingTask
from puma_hub.errors import BankError, MismatchError, UnknownUserError
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank


def of_one_training(bank: PromptBank, existing: PromptBank) -> PromptBank:
    return bank.with_provenance(statistics=existing.statistics)


def pieces(sizes: tuple[int, ...], column: pa.Array) -> pa.ChunkedArray:
    """The column in chunks of these sizes, each a slice with an offset."""
    starts = np.cumsum((0, *sizes))
    return pa.chunked_array([column.slice(start, size) for start, size in zip(starts, sizes)], column.type)


def in_pieces(bank: PromptBank, ids: tuple[int, ...], prompts: tuple[int, ...]) -> PromptBank:
    """The bank with its two columns in chunks of other sizes."""
    table = bank.dataset.data.table.combine_chunks()
    columns = [pieces(sizes, table.column(name).chunk(0)) for name, sizes in (("user_id", ids), ("prompt", prompts))]
    table = pa.table(columns, schema=table.schema)
    return PromptBank(datasets.Dataset(table, info=bank.dataset.info), bank.provenance)


@pytest.mark.parametrize("ids", [(8,), (3, 5), (0, 8), (1, 0, 7), (2, 2, 2, 2)])
@pytest.mark.parametrize("prompts", [(8,), (5, 3), (0, 8, 0), (1, 1, 6)])
def test_chunks_of_any_size(bank: PromptBank, ids: tuple[int, ...], prompts: tuple[int, ...]) -> None:
    found = in_pieces(bank, ids, prompts)
    assert [user for user, _ in found] == bank.user_ids
    assert np.array_equal(np.stack([prompt for _, prompt in found]), bank.prompts)
    assert np.array_equal(found.prompts, bank.prompts)
    assert all(np.array_equal(found[user], bank[user]) for user in bank.user_ids)
    assert np.array_equal(found.select(["user-6", "user-1", "user-2"]).prompts, bank.prompts[[6, 1, 2]])
    assert np.array_equal(found.remove(["user-0"]).prompts, bank.prompts[1:])
    batches = list(found.batches(3))
    assert [len(users) for users, _ in batches] == [3, 3, 2]
    assert [user for users, _ in batches for user in users] == bank.user_ids
    assert np.array_equal(np.concatenate([prompts for _, prompts in batches]), bank.prompts)


def test_a_slice_of_a_table_with_nulls_around_it(bank: PromptBank) -> None:
    values = pa.array([[None] * 32, *bank.dataset["prompt"][:], None], pa.list_(pa.float32(), 32))
    table = pa.table({"user_id": pa.array([None, *bank.user_ids, None]), "prompt": values})
    info = bank.dataset.info
    assert np.array_equal(
        PromptBank(datasets.Dataset(table.slice(1, 8), info=info), bank.provenance).prompts, bank.prompts
    )
    for start, message in ((0, "nulls"), (1, "must not hold nulls")):
        with pytest.raises(BankError, match=message):
            PromptBank(datasets.Dataset(table.slice(start, 9), info=info), bank.provenance)
    ids = pa.array([f"u{number}" for number in range(10)])
    table = pa.table({"user_id": ids, "prompt": values})
    with pytest.raises(BankError, match="prompt in row 0 holds nulls"):
        PromptBank(datasets.Dataset(table.slice(0, 9), info=info), bank.provenance)


def test_every_user_comes_after_an_update(bank: PromptBank) -> None:
    merged = bank.select(["user-1", "user-2", "user-3"]).update(
        of_one_training(make_bank(10, seed=1), bank).select(["user-8", "user-9"])
    )
    assert [user for user, _ in merged] == merged.user_ids and len(merged) == 5


def test_look_up(bank: PromptBank) -> None:
    assert np.array_equal(bank["user-3"], bank.prompts[3])
    assert [user for user, _ in bank] == bank.user_ids
    assert np.array_equal(dict(bank)["user-7"], bank.prompts[7])
    assert not bank["user-3"].flags.writeable and not bank.prompts.flags.writeable
    with pytest.raises(UnknownUserError, match="not among the 8 users") as caught:
        bank["secret-name"]
    assert "secret-name" not in str(caught.value)


@pytest.mark.parametrize("user", [7, None, b"user-1", ["user-1"], {"user-1"}, slice(2)])
def test_one_user_is_a_string(bank: PromptBank, user: Any) -> None:
    assert user not in bank
    with pytest.raises(BankError, match="takes the id of one user"):
        bank[user]


@pytest.mark.parametrize(
    "users",
    [
        ["user-5", "user-2"],
        ("user-5", "user-2"),
        (user for user in ("user-5", "user-2")),
        np.array(["user-5", "user-2"]),
        np.array(["user-5", "user-2"], object),
        pd.Series(["user-5", "user-2"], index=[9, 4]),
        pd.Index(["user-5", "user-2"]),
        pa.array(["user-5", "user-2"]),
        pa.chunked_array([["user-5"], ["user-2"]]),
        datasets.Dataset.from_dict({"user_id": ["user-5", "user-2"]})["user_id"],
        {"user-5": 1, "user-2": 2}.keys(),
    ],
    ids=lambda users: type(users).__name__,
)
def test_users_in_any_list(bank: PromptBank, users: Any) -> None:
    chosen = bank.select(users)
    assert chosen.user_ids == ["user-5", "user-2"] and all(type(user) is str for user in chosen.user_ids)


def test_one_user_and_sets_of_users(bank: PromptBank) -> None:
    assert bank.select("user-5").user_ids == ["user-5"]
    assert "user-5" not in bank.remove("user-5") and len(bank.remove("user-5")) == 7
    assert bank.remove(np.str_("user-5")).user_ids == bank.remove(["user-5", "user-5"]).user_ids
    assert bank.rows("user-5") == [5]
    assert bank.select({"user-7", "user-0", "user-3"}).user_ids == ["user-0", "user-3", "user-7"]  # in order
    assert len(bank.select([])) == len(bank.select(np.array([]))) == 0


@pytest.mark.parametrize(
    "users", [None, 5, 2.0, b"user-5", bytearray(b"u"), [5], np.array([5]), [None], pd.Series([1.5]), np.array("u")]
)
@pytest.mark.parametrize("call", ["select", "remove", "rows"])
def test_what_is_no_list_of_users(bank: PromptBank, users: Any, call: str) -> None:
    with pytest.raises(BankError, match="strings"):
        getattr(bank, call)(users)


def test_half_a_surrogate_pair_is_no_user(bank: PromptBank) -> None:
    assert "\ud800" not in bank
    many = [f"user-{number}" for number in range(1000)]
    for users in (["user-1", "\ud800"], [*many, "\ud800"]):
        with pytest.raises(UnknownUserError, match="users are not in this bank"):
            make_bank(1000).select(users) if len(users) > 2 else bank.select(users)
    with pytest.raises(BankError, match=r"1 user ids hold half of a surrogate pair.*row 1"):
        PromptBank.from_arrays(["a", "\udc00"], np.ones((2, 1, 4)), ModelSpec("m", 4))


def test_many_users_are_found_like_few() -> None:
    bank = make_bank(2000).select([f"user-{number}" for number in np.random.default_rng(0).permutation(2000)])
    users = bank.user_ids[::-1]
    assert bank.rows(users) == [bank.rows([user])[0] for user in users] == list(range(2000))[::-1]


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
    other = of_one_training(make_bank(3, seed=9), bank)
    merged = rest.update(other)
    assert len(merged) == 7
    assert np.array_equal(merged["user-2"], other["user-2"])
    assert np.array_equal(merged["user-7"], bank["user-7"])


def test_extra_columns_stay(bank: PromptBank, tmp_path: Path) -> None:
    wide = PromptBank(bank.dataset.add_column("country", [str(i) for i in range(8)]), bank.provenance)  # type: ignore[call-arg]
    wide.select(["user-4"]).save_pretrained(tmp_path / "b")
    assert PromptBank.from_pretrained(tmp_path / "b").dataset["country"][:] == ["4"]


def test_a_selected_dataset_is_read_by_its_index(bank: PromptBank) -> None:
    shuffled = PromptBank(bank.dataset.select([6, 1]), bank.provenance)
    assert shuffled.user_ids == ["user-6", "user-1"]
    assert np.array_equal(shuffled.prompts, bank.prompts[[6, 1]])


def test_any_float_dtype_is_accepted() -> None:
    for dtype in (np.float16, np.float64):
        array = np.ones((1, 1, 4), dtype)
        assert PromptBank.from_arrays(["a"], array, ModelSpec("m", 4)).prompts.dtype == np.float32


def test_bad_datasets(bank: PromptBank) -> None:
    with pytest.raises(BankError, match="lack user_id"):
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
    with pytest.raises(BankError, match=r"have shapes \(1, 32\) and \(2, 32\)"):
        bank.update(make_bank(length=2))
    with pytest.raises(BankError, match="takes a PromptBank, got dict"):
        bank.update({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"template": "rating"}, {"template": "click"}, "templates differ"),
        ({"template": "rating"}, {}, r"templates differ: .* and not recorded.*with_provenance\(template="),
        ({"task": RatingTask()}, {"task": ClickTask()}, r"tasks differ: .*rating.* and .*click"),
        ({"task": RatingTask()}, {"task": RatingTask((1, 2, 3))}, "tasks differ"),
        ({"head": RatingHead()}, {"head": RatingHead()}, "rating heads differ"),
        ({"head": RatingHead()}, {}, r"rating heads differ \(a rating head and none"),
    ],
)
def test_update_refuses_another_training(ours: dict[str, Any], theirs: dict[str, Any], message: str) -> None:
    banks = [make_bank(**ours), make_bank(2, **theirs)]
    for one, other in (banks, banks[::-1]):
        with pytest.raises(MismatchError, match=r"differ.*bank=existing\), or puma-hub fit --bank") as caught:
            one.update(other)
        assert "\n" not in str(caught.value)
    with pytest.raises(MismatchError, match=message):
        banks[0].update(banks[1])


def test_update_takes_the_same_training(head: RatingHead) -> None:
    facts = {"template": "rating", "task": RatingTask(), "head": head}
    trained = RatingTask(mse_weight=0.1)  # another way to the same prompts
    other = make_bank(2, seed=1, **{**facts, "task": trained, "head": copy.deepcopy(head)})  # the same bits
    ours = make_bank(**facts)
    merged = ours.update(of_one_training(other, ours))
    assert len(merged) == 8 and np.array_equal(merged["user-1"], other["user-1"]) and merged.head is head


def test_update_refuses_another_base(bank: PromptBank) -> None:
    unknown = bank.with_provenance(statistics=None)
    apart = make_bank(8, seed=1)
    assert len(unknown.update(unknown)) == len(bank.update(bank.select(["user-1"]))) == 8
    for one, other in ((bank, apart), (apart, bank), (bank, unknown), (unknown, bank)):
        with pytest.raises(MismatchError, match=r"the same base.*with_provenance\(statistics=existing\.statistics\)"):
            one.update(other)
    assert len(bank.update(of_one_training(apart, bank))) == 8


def test_update_aligns_columns(bank: PromptBank) -> None:
    def with_columns(**columns: pa.Array) -> PromptBank:
        table = pa.table({**columns, **bank.dataset.data.table.to_pydict()})
        return PromptBank(datasets.Dataset(table), bank.provenance)

    ages, names = pa.array(range(8), pa.int64()), pa.array([f"n{number}" for number in range(8)])
    ours = with_columns(age=ages, name=names)
    for other in (
        with_columns(name=names, age=ages),  # in another order
        with_columns(age=ages.cast(pa.int8()), name=names.cast(pa.large_string())),  # as other programs write them
        with_columns(age=ages, name=names.dictionary_encode().cast(pa.string())),
        with_columns(age=pa.nulls(8, pa.int64()), name=names),
    ):
        merged = ours.select(["user-3"]).update(other)
        assert merged.dataset.features == ours.dataset.features and len(merged) == 8
        assert merged.dataset["name"][:] == names.to_pylist()
    with pytest.raises(BankError, match=r"extra \['name'\]; give them the bank's columns with dataset\.add_column"):
        with_columns(age=ages).update(ours)
    with pytest.raises(BankError, match=r"missing \['age', 'name'\]"):
        ours.update(bank)
    with pytest.raises(BankError, match=r"columns \['age'\] have types .*cast them first"):
        ours.update(with_columns(age=names, name=names))


def test_a_table_is_no_list_of_users() -> None:
    bank = make_bank()
    for table in (pd.DataFrame({"user_id": bank.user_ids}), pa.table({"user_id": bank.user_ids})):
        with pytest.raises(BankError, match=r"user ids must be one column, got .*table\['user_id'\]"):
            bank.select(table)
