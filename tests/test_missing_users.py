"""Users whom one of several source banks lacks: left out, at the mean, or predicted."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error

from puma_hub import ModelSpec, PromptBank, migrate
from puma_hub.cli.main import main
from puma_hub.errors import BankError, ConfigurationError, PumaHubError
from puma_hub.migration import chain, migrate_to
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.predicted import PENALTIES
from tests.conftest import make_bank
from tests.test_bank_batches import make_adapter, same
from tests.trainings import OTHER, SOURCE, make_trained, make_training

THIRD = ModelSpec("third", 8)
POLICIES = ["leave-out", "mean", "predict"]


def related(users: int = 90, length: int = 1, seed: int = 0) -> list[PromptBank]:
    """Banks of three LLMs whose prompts come from the same tastes."""
    draw = np.random.default_rng(seed)
    tastes = draw.normal(size=(users, 5))
    banks = []
    for spec in (SOURCE, OTHER, THIRD):
        shape = (length, spec.hidden_size)
        base, towards = draw.normal(size=shape), draw.normal(size=(5, *shape))
        prompts = base + 0.1 * np.tensordot(tastes, towards, 1) + 0.05 * draw.normal(size=(users, *shape))
        ids = [f"user-{number:03d}" for number in draw.permutation(users)]
        order = np.array([int(name[-3:]) for name in ids])
        banks.append(PromptBank.from_arrays(ids, prompts[order].astype(np.float32), spec))
    return banks


def without(bank: PromptBank, *numbers: int) -> PromptBank:
    return bank.remove([f"user-{number:03d}" for number in numbers])


def some_lack() -> list[PromptBank]:
    one, two, three = related()
    return [without(one, 3, 4), without(two, 4, 7, 8, 9), without(three, 3, 7, 20)]


def test_without_a_policy_they_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    banks = some_lack()
    with caplog.at_level(logging.INFO, "puma_hub"):
        found = migrate(make_trained(*banks), banks)
    assert len(found) == 84 and found.provenance.details["users_left_out"] == 6
    assert "missing" not in found.provenance.details
    assert "6 users are missing" in caplog.text and "user-0" not in caplog.text


def test_the_mean_prompt_stands_in(caplog: pytest.LogCaptureFixture) -> None:
    banks = some_lack()
    adapter = make_trained(*banks)
    filled = []
    for bank in banks:
        lacking = sorted({f"user-{number:03d}" for number in range(90)} - set(bank.user_ids))
        means = np.repeat(bank.statistics.mean[None], len(lacking), 0)
        prompts = np.concatenate([bank.prompts, means])
        filled.append(PromptBank.from_arrays([*bank.user_ids, *lacking], prompts, bank.model))
        filled[-1] = filled[-1].with_provenance(statistics=bank.statistics)
    with caplog.at_level(logging.INFO, "puma_hub"):
        found = adapter.migrate(banks, missing="mean")
    expected = migrate(adapter, filled)
    assert len(found) == 90
    assert found.user_ids[:88] == banks[0].user_ids and set(found.user_ids[88:]) == {"user-003", "user-004"}
    assert np.array_equal(found.prompts, expected.prompts_at(expected.rows(found.user_ids)))
    details = found.provenance.details
    assert details["missing"] == {"policy": "mean", "users_filled": [2, 4, 3]} and details["users_left_out"] == 0
    assert "2 from bank 1, 4 from bank 2, 3 from bank 3" in caplog.text and "user-0" not in caplog.text


def test_the_mean_that_is_given_stands_in() -> None:
    one, two, _ = some_lack()
    adapter = make_trained(one, two)
    other = make_training(9, OTHER)
    shifted = migrate(adapter, [one, two], mean=[one, other], missing="mean")
    alone = PromptBank.from_arrays(["user-007"], other.statistics.mean[None].copy(), OTHER, statistics=other.statistics)
    expected = migrate(adapter, [one.select(["user-007"]), alone])
    assert np.array_equal(shifted["user-007"], expected["user-007"])


def test_an_untrained_adapter_has_no_mean_and_the_bank_s_own_stands_in() -> None:
    one, two, _ = some_lack()
    adapter = make_adapter(one.model, two.model)
    found = migrate(adapter, [one, two], missing="mean")
    alone = PromptBank.from_arrays(["user-007"], two.statistics.mean[None].copy(), OTHER)
    assert np.array_equal(found["user-007"], migrate(adapter, [one.select(["user-007"]), alone])["user-007"])
    with pytest.raises(BankError, match="bank 2 has no statistics"):
        migrate(adapter, [one, two.with_provenance(statistics=None)], missing="mean")


def by_sklearn(banks: list[PromptBank], lacking: list[int]) -> dict[str, list[np.ndarray]]:
    """Prompts of users whom banks ``lacking`` lack, by scikit-learn's ridge with the penalty of two-fold validation."""
    everyone = sorted(set.intersection(*(set(bank.user_ids) for bank in banks)))
    offsets, scales = [], []
    for bank in banks:
        offset = bank.prompts_at(bank.rows(everyone)).astype(np.float64) - bank.statistics.mean
        scales.append(np.sqrt(np.square(offset).mean()))
        offsets.append(offset.reshape(len(everyone), -1) / scales[-1])
    has = [number for number in range(len(banks)) if number not in lacking]
    inputs, outputs = (np.concatenate([offsets[number] for number in which], 1) for which in (has, lacking))

    def fitted(rows: slice, penalty: float) -> Ridge:
        alpha = penalty * len(inputs[rows]) * inputs[rows].var(0).mean()
        return Ridge(alpha).fit(inputs[rows], outputs[rows])

    folds = slice(0, None, 2), slice(1, None, 2)
    errors = [
        sum(
            len(outputs[b]) * mean_squared_error(outputs[b], fitted(a, penalty).predict(inputs[b]))
            for a, b in (folds, folds[::-1])
        )
        for penalty in PENALTIES
    ]
    model = fitted(slice(None), PENALTIES[int(np.argmin(errors))])
    whose = set.intersection(*(set(banks[number].user_ids) for number in has))
    for number in lacking:
        whose -= set(banks[number].user_ids)
    result = {}
    for user in whose:
        asked = [(banks[number][user] - banks[number].statistics.mean).ravel() / scales[number] for number in has]
        answers = np.split(model.predict(np.concatenate(asked)[None])[0], np.cumsum([outputs.shape[1]])[:-1])
        start, prompts = 0, []
        for number in lacking:
            shape = banks[number].shape
            size = shape[0] * shape[1]
            part = answers[0][start : start + size]
            prompts.append(banks[number].statistics.mean + scales[number] * part.reshape(shape))
            start += size
        result[user] = prompts
    return result


@pytest.mark.parametrize("length", [1, 2])
def test_predicted_prompts_are_those_of_sklearn(length: int, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = related(length=length)
    banks = [one, without(two, 7, 8, 9), without(three, 7, 20)]
    adapter = make_adapter(*(bank.model for bank in banks)) if length == 1 else None
    from puma_hub.bank.join import join_users
    from puma_hub.migration.predicted import predicted_prompt

    users = join_users(banks, everyone=True)
    with caplog.at_level(logging.INFO, "puma_hub"):
        fill = predicted_prompt(banks, users, [bank.statistics.mean for bank in banks])
    assert caplog.text.count("learnt on 86 users") == 3 and "user-0" not in caplog.text
    parts = [np.zeros((len(users), *bank.shape), np.float32) for bank in banks]
    for part, bank, rows in zip(parts, banks, users.rows):
        part[rows >= 0] = bank.prompts_at(rows[rows >= 0])
    before = [part.copy() for part in parts]
    fill(parts, users.present)
    for lacking, expected_users in (([1], {8, 9}), ([2], {20}), ([1, 2], {7})):
        expected = by_sklearn(banks, lacking)
        assert set(expected) == {f"user-{number:03d}" for number in expected_users}
        for user, prompts in expected.items():
            row = users.names.index(user)
            for number, prompt in zip(lacking, prompts):
                np.testing.assert_allclose(parts[number][row], prompt, atol=1e-6)
    for part, old, present in zip(parts, before, users.present.T):
        assert np.array_equal(part[present], old[present])
    truth = related(length=length)[1]
    near, far = (
        np.abs(prompts - truth["user-008"]).mean()
        for prompts in (parts[1][users.names.index("user-008")], banks[1].statistics.mean)
    )
    assert near < 0.6 * far
    if adapter is not None:
        batch = np.concatenate(list(MigrationPlan.of(adapter, banks, missing="predict").batches(7)))
        assert np.array_equal(batch, np.concatenate(parts, axis=-1))


def test_what_cannot_be_predicted_is_near_the_mean() -> None:
    draw = np.random.default_rng(0)
    one, two, _ = related()
    noise = PromptBank.from_arrays(two.user_ids, draw.normal(size=two.prompts.shape), OTHER)
    banks = [one, without(noise, 7)]
    batch = np.concatenate(list(MigrationPlan.of(make_adapter(one.model, OTHER), banks, missing="predict").batches(90)))
    found = batch[one.user_ids.index("user-007")][:, SOURCE.hidden_size :]
    assert np.abs(found - banks[1].prompts.mean(0)).mean() < 0.2


@pytest.mark.parametrize("missing", POLICIES)
@pytest.mark.parametrize("batch_size", [1, 33, 4096])
def test_into_files_with_the_same_bits(tmp_path: Path, missing: str, batch_size: int) -> None:
    banks = some_lack()
    for number, bank in enumerate(banks):
        bank.save_pretrained(tmp_path / str(number), max_shard_size="4KB")
    stored = [PromptBank.from_pretrained(tmp_path / str(number)) for number in range(3)]
    adapter = make_trained(*banks)
    found = migrate_to(tmp_path / "out", adapter, stored, missing=missing, batch_size=batch_size)
    assert same(migrate(adapter, stored, missing=missing), found)
    assert same(migrate(adapter, banks, missing=missing), found)  # whose users stand in another order


def test_nobody_is_missing() -> None:
    banks = related()
    adapter = make_trained(*banks)
    expected = migrate(adapter, banks).prompts
    for missing in ("mean", "predict"):
        found = migrate(adapter, banks, missing=missing)
        assert np.array_equal(found.prompts, expected)
        assert found.provenance.details["missing"]["users_filled"] == [0, 0, 0]


def test_no_user_is_in_all_banks() -> None:
    one, two, _ = related()
    apart = [one.select(one.user_ids[:40]), two.remove(one.user_ids[:40])]
    adapter = make_trained(one, two)
    with pytest.raises(BankError, match="none of the 90 users is in all 2 banks"):
        migrate(adapter, apart)
    assert len(migrate(adapter, apart, missing="mean")) == 90
    with pytest.raises(BankError, match="0 users are in all 2 banks, at least 30 are needed"):
        migrate(adapter, apart, missing="predict")


@pytest.mark.parametrize(
    ("banks", "missing", "error", "says"),
    [
        (1, "mean", ConfigurationError, "this one has a single source, leave it out"),
        (1, "predict", ConfigurationError, "this one has a single source"),
        (2, "median", ConfigurationError, "'median' is unknown; choose one of leave-out, mean, predict"),
        (2, None, ConfigurationError, "None is unknown"),
    ],
)
def test_wrong_combinations_are_refused(
    banks: int, missing: Any, error: type[PumaHubError], says: str, tmp_path: Path
) -> None:
    given = related()[:banks]
    adapter = make_trained(*given)
    with pytest.raises(error, match=says):
        migrate(adapter, given, missing=missing)
    with pytest.raises(error, match=says):
        chain(given, [adapter], missing=missing)
    with pytest.raises(error, match=says):
        migrate_to(tmp_path / "out", adapter, given, missing=missing)
    assert not list(tmp_path.iterdir())


def test_the_command_and_that_it_never_holds_all_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users, size = 12_000, 192
    specs = ModelSpec("source", size), ModelSpec("other", size)
    ids = [f"user-{number:06d}" for number in range(users)]
    whole = []
    for seed, spec in enumerate(specs):
        prompts = np.random.default_rng(seed).standard_normal((users, 1, size), dtype=np.float32)
        whole.append(PromptBank.from_arrays(ids, prompts, spec))
    make_trained(*whole).save_pretrained(tmp_path / "adapter")
    whole[0].save_pretrained(tmp_path / "one")
    whole[1].select(ids[500:]).save_pretrained(tmp_path / "two")
    del whole, prompts
    command = ["migrate", "--adapter", str(tmp_path / "adapter"), "--missing", "predict", "--batch-size", "500"]
    command += ["--bank", str(tmp_path / "one"), "--bank", str(tmp_path / "two")]
    assert main([*command, "--out", str(tmp_path / "warm")]) == 0  # what is imported on the way is not counted
    report = tmp_path / "report.json"
    tracemalloc.start()  # NumPy's arrays
    status = main([*command, "--json", str(report), "--out", str(tmp_path / "out")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 0 and peak < 2 * users * size * 4 / 2
    found = json.loads(report.read_text())
    assert found["missing"] == {"policy": "predict", "users_filled": [0, 500]} and found["users_left_out"] == 0
    assert len(PromptBank.from_pretrained(tmp_path / "out")) == users
    with pytest.raises(SystemExit) as left:
        main([*command, "--missing", "median", "--out", str(tmp_path / "no")])
    assert left.value.code == 2 and "invalid choice: 'median'" in capsys.readouterr().err


def test_users_in_no_order_of_their_ids() -> None:
    one, two = make_bank(50), make_bank(40, size=16, seed=1)
    found = migrate(make_adapter(one.model, two.model), [two, one][::-1], missing="mean")
    assert found.user_ids == one.user_ids
