"""Banks made of what callers have: arrays, tensors and lists of every kind, and data sets of other types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from puma_hub import ModelSpec, PromptBank
from puma_hub.errors import BankError

SPEC = ModelSpec("m", 4)
VALUES = np.arange(8, dtype=np.float32).reshape(2, 1, 4) / 4


def build(prompts: Any, ids: Any = ("a", "b")) -> PromptBank:
    return PromptBank.from_arrays(ids, prompts, SPEC)


TAKEN = {
    **{str(dtype): VALUES.astype(dtype) for dtype in (np.float16, np.float64, ">f4", np.longdouble)},
    "whole numbers": (VALUES * 4).astype(np.int16),
    "not contiguous": np.asfortranarray(VALUES),
    "reversed": VALUES[:, :, ::-1],
    "objects": pd.Series(list(VALUES)),
    "list": VALUES.tolist(),
    "arrays": list(VALUES),
    "masked, nothing hidden": np.ma.masked_array(VALUES, mask=False),
    "bfloat16": torch.tensor(VALUES, dtype=torch.bfloat16),
    "gradients": torch.nn.Parameter(torch.tensor(VALUES)),
    "float64 tensor": torch.tensor(VALUES, dtype=torch.float64),
    "tensors": [torch.tensor(part, dtype=torch.bfloat16, requires_grad=True) for part in VALUES],
    "sparse": torch.tensor(VALUES).to_sparse(),
    "conjugate view": torch.tensor(VALUES + 0j).conj().real,
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_holds_numbers_is_taken(kind: str) -> None:
    expected = VALUES * 4 if kind == "whole numbers" else VALUES[:, :, ::-1] if kind == "reversed" else VALUES
    found = build(TAKEN[kind]).prompts
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def with_value(value: float, dtype: Any = np.float64) -> np.ndarray:
    array = np.ones((2, 1, 4), dtype)
    array[1, 0, 2] = value
    return array


REFUSED = {
    "NaN": (with_value(np.nan), "prompt in row 1 holds NaN or infinite"),
    "infinite": (with_value(np.inf), "prompt in row 1 holds NaN or infinite"),
    "too large": (with_value(1e39), r"numbers up to 1e\+39"),
    "too large, tensor": (torch.tensor(with_value(-1e39)), r"numbers up to 1e\+39"),
    "complex": (VALUES + 1j, "complex"),
    "complex tensor": (torch.tensor(VALUES + 1j), "complex"),
    "strings": (VALUES.astype(str), "array of numbers, got ndarray of text"),
    "yes and no": (VALUES > 1, "bool"),
    "yes and no, tensor": (torch.tensor(VALUES > 1), "bool"),
    "dates": (VALUES.astype("datetime64[s]"), "datetime64"),
    "objects": (np.array([[[None] * 4]] * 2), "objects"),
    "ragged": ([[[1.0] * 4], [[1.0] * 3]], "rows of equal length"),
    "ragged tensors": ([torch.ones(1, 4), torch.ones(2, 4)], "rows of equal length"),
    "nothing": (None, "must be an array"),
    "no memory": (torch.ones(2, 1, 4, device="meta"), "must be an array"),
    "hidden": (np.ma.masked_array(VALUES, VALUES > 1), "masked"),
    "flat": (VALUES[:, 0], r"got \(2, 4\); give prompts\.reshape\(2, -1, 4\)"),
    "two flat": (np.ones((2, 8)), r"give prompts\.reshape\(2, -1, 4\)"),
    "other size": (np.ones((2, 7)), r"got \(2, 7\)$"),
    "a table": (pd.DataFrame(VALUES[:, 0]), r"prompts\.reshape"),
    "one prompt": (VALUES[0, 0], "must have shape"),
    "a dict": ({"a": VALUES[0]}, "must be an array"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_is_refused(kind: str) -> None:
    prompts, message = REFUSED[kind]
    with pytest.raises(BankError, match=message) as caught:
        build(prompts)
    assert "\n" not in str(caught.value)


def test_the_bank_does_not_change_with_the_callers_array() -> None:
    array, tensor = VALUES.copy(), torch.tensor(VALUES)
    banks = [build(array), build(tensor), build(torch.nn.Parameter(tensor))]
    array[:] = 9
    tensor.fill_(9)
    assert all(np.array_equal(bank.prompts, VALUES) for bank in banks)


def test_a_read_only_array_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "prompts.npy", VALUES)
    mapped = np.load(tmp_path / "prompts.npy", mmap_mode="r")
    assert np.shares_memory(build(mapped).prompts, mapped)


@pytest.mark.parametrize(
    "ids", [["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"]), pa.array(["a", "b"]), iter("ab")]
)
def test_ids_in_any_list(ids: Any) -> None:
    bank = build(VALUES, ids)
    assert bank.user_ids == ["a", "b"] and all(type(user) is str for user in bank.user_ids)


@pytest.mark.parametrize("ids", [[1, 2], np.array([1, 2]), [Path("a"), Path("b")], [b"a", b"b"], ["a", None], b"ab"])
def test_ids_that_are_no_strings(ids: Any) -> None:
    with pytest.raises(BankError, match="strings"):
        build(VALUES, ids)


def test_ids_differ_in_any_letter() -> None:
    ids = ["\u00e9", "e\u0301", "E", "e", "e ", " e", "e\x00", "e\x00\x00", "\x00", "e\n", "e" * 100_000]
    bank = build(np.arange(4 * len(ids)).reshape(-1, 1, 4), ids)
    assert bank.user_ids == ids and [bank[user][0, 0] / 4 for user in ids] == list(range(len(ids)))


def test_no_users() -> None:
    for ids, prompts in (([], np.ones((0, 1, 4))), (np.array([]), torch.ones(0, 1, 4))):
        bank = build(prompts, ids)
        assert len(bank) == 0 and bank.user_ids == [] and list(bank) == [] and list(bank.batches()) == []
        assert bank.prompts.shape == (0, 1, 4) and "a" not in bank and len(bank.update(build(VALUES[:1], ["a"]))) == 1


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
        build(prompts, ids)


def dataset(prompt: pa.Array, ids: pa.Array | None = None) -> datasets.Dataset:
    return datasets.Dataset(pa.table({"prompt": prompt, "user_id": pa.array(["a", "b"]) if ids is None else ids}))


ROWS = VALUES.reshape(2, 4).tolist()


@pytest.mark.parametrize(
    "prompt",
    [
        pa.array(ROWS, pa.list_(pa.float32())),
        pa.array(ROWS, pa.list_(pa.float64())),
        pa.array(ROWS, pa.large_list(pa.float32())),
        pa.array(ROWS, pa.list_(pa.float64(), 4)),
        pa.array([None, *ROWS], pa.list_(pa.float64(), 4)).slice(1),
        pa.array([[1.0], *ROWS], pa.list_(pa.float64())).slice(1),
        pa.array(VALUES.reshape(2, 4).astype(np.float16).tolist(), pa.list_(pa.float16(), 4)),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_columns_of_other_types(prompt: pa.Array, text: pa.DataType) -> None:
    bank = PromptBank(dataset(prompt, pa.array(["a", "b"], text)), build(VALUES).provenance)
    assert np.array_equal(bank.prompts, VALUES) and bank.user_ids == ["a", "b"]
    assert dict(bank.dataset.features) == dict(build(VALUES).dataset.features)
    assert len(bank.update(build(VALUES))) == len(build(VALUES).update(bank)) == 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (pa.array([ROWS[0], ROWS[0][:3]]), "lists of other lengths"),
        (pa.array([ROWS[0] + ROWS[0], []]), "lists of other lengths"),
        (pa.array([ROWS[0], None]), "must not hold nulls"),
        (pa.array([ROWS[0], [1.0, None, 1.0, 1.0]]), "row 1 holds nulls"),
        (pa.array([ROWS[0], [1.0, 1e39, 1.0, 1.0]]), "row 1 holds NaN or infinite"),
        (pa.array([[1, 2, 3, 4]] * 2), "must be List"),
        (pa.array(["1", "2"]), "must be List"),
        (pa.array([ROWS[0][:3]] * 2, pa.list_(pa.float32(), 3)), "must be List"),
    ],
)
def test_columns_that_are_no_prompts(prompt: pa.Array, message: str) -> None:
    with pytest.raises(BankError, match=message):
        PromptBank(dataset(prompt), build(VALUES).provenance)


@pytest.mark.parametrize("ids", [pa.array([1, 2]), pa.array([b"a", b"b"]), pa.array(["a", None]), pa.array(["a", "a"])])
def test_columns_that_are_no_ids(ids: pa.Array) -> None:
    with pytest.raises(BankError, match=r"user_id|duplicates"):
        PromptBank(dataset(pa.array(ROWS, pa.list_(pa.float32(), 4)), ids), build(VALUES).provenance)
