"""Rows that a bank was trained on are not taken for held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from puma_hub import PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments, compare_banks, evaluate_bank
from puma_hub.data import chronological_split, load_interactions, most_recent
from puma_hub.data import held_out as held_out_module
from puma_hub.data.held_out import TrainedRows, description, refuse_trained_rows, row_hashes
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.schema import check_interactions
from puma_hub.errors import BankError, InteractionsError
from puma_hub.training.encoded_rows import last_of_each_user
from tests.conftest import make_bank, make_interactions


@pytest.fixture
def lm(make_lm: Callable[..., PersonalizedLM]) -> PersonalizedLM:
    return make_lm()


def trained(lm: PersonalizedLM, rows: datasets.Dataset, out: Path) -> PromptBank:
    return PromptTrainer(lm, rows, PumaTrainingArguments(num_train_epochs=1, output_dir=str(out))).train()


def test_another_split_than_in_training_is_refused(lm: PersonalizedLM, tmp_path: Path) -> None:
    rows = make_interactions(users=4, rows=30)
    rows.to_parquet(tmp_path / "rows.parquet")
    few = load_interactions(tmp_path / "rows.parquet", rows_per_user=10)
    everything = load_interactions(tmp_path / "rows.parquet")
    bank = trained(lm, few["train"], tmp_path / "work")
    assert bank.provenance.trained_rows is not None and bank.provenance.trained_rows.rows == 4 * 8
    assert evaluate_bank(lm, bank, few)["rows_trained_on"] == 0
    for splits in (everything, everything["validation"]):
        with pytest.raises(InteractionsError, match=r"trained on 16 of 24 held-out rows.*--rows-per-user"):
            evaluate_bank(lm, bank, splits)
    with pytest.raises(InteractionsError, match=r"the 10 most recent rows of each user; the last 0.2 of each"):
        compare_banks(lm, bank, lm, bank, everything["validation"])
    report = evaluate_bank(lm, bank, everything, allow_training_rows=True)
    assert report["rows_trained_on"] == 16
    # It is so after saving and loading, for some of the users, and with users of another bank added.
    bank.save_pretrained(tmp_path / "bank")
    again = PromptBank.from_pretrained(str(tmp_path / "bank"))
    assert again.provenance.trained_rows == bank.provenance.trained_rows
    facts = {name: getattr(bank.provenance, name) for name in ("template", "task", "statistics")}
    other = PromptBank.from_arrays(["new"], bank.prompts[:1], bank.model, head=bank.head, **facts)
    for part in (again, again.select(bank.user_ids[:2]), other.update(again), again.update(other)):
        assert part.provenance.trained_rows == bank.provenance.trained_rows
        with pytest.raises(InteractionsError, match=r"trained on .* held-out rows"):
            evaluate_bank(lm, part, everything["validation"])


def test_the_rows_travel_through_a_migration() -> None:
    from puma_hub import ModelSpec, PumaAdapter, PumaConfig, chain, migrate

    rows = TrainedRows.of(make_interactions())
    bank = make_bank(trained_rows=rows)
    adapter = PumaAdapter(PumaConfig(sources=[ModelSpec("source", 32)], target=ModelSpec("target", 16)))
    assert migrate(adapter, bank).provenance.trained_rows == rows
    onward = PumaAdapter(PumaConfig(sources=[ModelSpec("target", 16)], target=ModelSpec("third", 8)))
    assert chain(bank, [adapter, onward]).provenance.trained_rows == rows


def test_no_hash_is_shown_on_cards_or_by_info() -> None:
    import json

    from puma_hub.cli.info_command import _bank

    bank = make_bank(trained_rows=TrainedRows.of(make_interactions()))
    shown = json.dumps(_bank(len(bank), False, bank.provenance))
    assert '"trained_rows": 96' in shown and "hashes" not in shown
    assert "trained_rows" not in bank.provenance.as_step()


def test_a_row_is_the_same_in_every_format(tmp_path: Path) -> None:
    rows = make_interactions(users=3, rows=5)
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv")
    rows.to_json(tmp_path / "rows.jsonl")
    floats = rows.cast_column("timestamp", datasets.Value("float64"))
    floats.to_parquet(tmp_path / "floats.parquet")
    found = [
        np.sort(row_hashes(load_interactions(tmp_path / name)["train"]))
        for name in ("rows.parquet", "rows.csv", "rows.jsonl", "floats.parquet")
    ]
    assert len(np.unique(found[0])) == 12
    assert all((hashes == found[0]).all() for hashes in found)
    splits = chronological_split(check_interactions(rows))
    texts = with_item_statistics(splits)
    assert (row_hashes(texts["train"]) == row_hashes(splits["train"])).all()
    seconds, moments = (
        make_interactions(users=1, rows=2).remove_columns("timestamp").add_column("timestamp", values)
        for values in (
            ["2020-01-01", "2020-01-02"],
            [np.datetime64("2020-01-01", "ns"), np.datetime64("2020-01-02", "ns")],
        )
    )
    assert (row_hashes(check_interactions(seconds)) == row_hashes(check_interactions(moments))).all()


def test_each_column_counts() -> None:
    row = {"user_id": ["u"], "item_id": ["i"], "item_text": ["t"], "label": [4.0], "timestamp": [5]}
    changes: list[dict[str, Any]] = [{}, {"user_id": ["i"], "item_id": ["u"]}, {"label": [4.5]}, {"timestamp": [6]}]
    hashes = {int(row_hashes(datasets.Dataset.from_dict({**row, **change}))[0]) for change in changes}
    assert len(hashes) == 4
    assert int(row_hashes(datasets.Dataset.from_dict({**row, "item_text": ["other"]}))[0]) in hashes


def test_repeated_rows_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = make_interactions(users=4, rows=12).remove_columns("timestamp")
    # Two users give the first label to the same item again at the end, without a time to tell the two apart.
    data = rows.to_dict()
    for user in (0, 1):
        for name in data:
            data[name][user * 12 + 11] = data[name][user * 12]
    repeated = datasets.Dataset.from_dict(data)
    repeated.to_parquet(tmp_path / "rows.parquet")
    splits = load_interactions(tmp_path / "rows.parquet")
    train, held_out = splits["train"], splits["validation"]
    count = int(np.isin(row_hashes(held_out), row_hashes(train)).sum())
    assert count >= 2 and f"{count} of {len(held_out)} held-out rows are training rows too" in caplog.text
    known = TrainedRows.of(train)
    assert refuse_trained_rows(held_out, known, train) == 0
    single = held_out.select([int(np.flatnonzero(np.isin(row_hashes(held_out), row_hashes(train)))[0])])
    assert refuse_trained_rows(check_interactions(single), known) == 1
    with pytest.raises(InteractionsError, match="the bank was trained on"):
        refuse_trained_rows(train, known)


def test_samples_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_module, "_SIZE", 64)
    rows = make_interactions(users=50, rows=40)
    first, second = rows.select(range(1200)), rows.select(range(800, 2000))
    sample = TrainedRows.of(first)
    assert sample.rows == len(np.unique(row_hashes(first))) and len(sample.hashes) == 64
    joined = sample.joined(TrainedRows.of(second))
    whole = TrainedRows.of(rows)
    assert (joined.hashes == whole.hashes).all() and 0.6 < joined.rows / whole.rows < 1.6
    assert sample.found_in(row_hashes(rows.select(range(1500, 2000)))) == 0
    half = rows.select(range(1000, 1400))  # the first 200 were trained on
    assert 0.4 < sample.found_in(row_hashes(half)) / 200 < 2.5
    with pytest.raises(InteractionsError, match=r"about \d+ of 400 held-out rows"):
        refuse_trained_rows(half, sample)
    assert TrainedRows.from_dict(sample.to_dict()) == sample
    small = TrainedRows.of(rows.select(range(20)))
    exact = small.joined(TrainedRows.of(rows.select(range(10, 30))))
    assert exact.rows == 30 and exact.is_whole


@pytest.mark.parametrize("change", [{"hashes": "!"}, {"hashes": None}, {"rows": "x"}, {"rows": 5}, {"hashes": "AAAA"}])
def test_a_damaged_record_is_told(change: dict[str, Any]) -> None:
    record = TrainedRows.of(make_interactions()).to_dict() | change
    with pytest.raises(BankError, match="damaged"):
        TrainedRows.from_dict(record)


def test_how_rows_were_chosen_travels_with_them(tmp_path: Path) -> None:
    make_interactions().to_parquet(tmp_path / "rows.parquet")
    splits = load_interactions(tmp_path / "rows.parquet", users=5, seed=3, rows_per_user=8, held_out=0.25)
    said = "5 users drawn with seed 3; the 8 most recent rows of each user; the last 0.25 of each user's rows held out"
    splits.save_to_disk(tmp_path / "disk")
    again = load_interactions(tmp_path / "disk")
    for rows in (splits["train"], again["validation"], check_interactions(again["train"]).select(range(5))):
        assert description(rows) == said
    assert description(most_recent(again["train"], 2)) == f"{said}; the 2 most recent rows of each user"


def test_texts_that_were_changed_in_training_alone_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_interactions().to_parquet(tmp_path / "rows.parquet")
    plain = load_interactions(tmp_path / "rows.parquet")
    means = load_interactions(tmp_path / "rows.parquet", item_statistics=True)
    assert means["train"]["item_text"][0].startswith(plain["train"]["item_text"][0] + "\nRating by all users: ")
    for trained, held_out in ((plain, plain), (means, means)):
        assert refuse_trained_rows(held_out["validation"], TrainedRows.of(trained["train"])) == 0
    assert refuse_trained_rows(make_interactions(users=2, seed=9), TrainedRows.of(means["train"]), allowed=True) >= 0
    assert not caplog.text  # of rows from elsewhere nothing is known
    refuse_trained_rows(plain["validation"], TrainedRows.of(means["train"]))
    assert "trained with each item's mean label added to its text (--item-statistics)" in caplog.text
    caplog.clear()
    refuse_trained_rows(means["validation"], TrainedRows.of(plain["train"]))
    assert "trained without each item's mean label" in caplog.text and "these rows are with it" in caplog.text


def test_rows_that_choose_the_epoch_are_the_last_in_time() -> None:
    rows = make_interactions(users=3, rows=10).shuffle(seed=1)
    train, validation = last_of_each_user(rows, 0.2)
    assert sorted(train + validation) == list(range(30)) and train == sorted(train)
    assert {rows[i]["timestamp"] for i in validation} == {8, 9} and len(validation) == 6
    assert last_of_each_user(make_interactions(users=3, rows=1), 0.5) == ([0, 1, 2], [])


def test_a_row_is_the_same_in_every_unit_of_time() -> None:
    seconds = np.array([789_652_009, 1_600_000_000])
    kinds = [seconds, seconds * 1.0, seconds * 10**3, seconds * 10**6, seconds * 10**9]
    kinds += [seconds.astype("datetime64[s]"), seconds.astype("datetime64[s]").astype("datetime64[ns]")]
    rows = make_interactions(users=1, rows=2).remove_columns("timestamp")
    hashes = {tuple(row_hashes(check_interactions(rows.add_column("timestamp", list(kind))))) for kind in kinds}
    assert len(hashes) == 1


def test_rows_that_lost_their_timestamps_are_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = check_interactions(make_interactions(users=2, rows=4))
    trained = TrainedRows.from_dict(TrainedRows.of(rows).to_dict())
    refuse_trained_rows(rows, trained, allowed=True)
    assert not caplog.records
    refuse_trained_rows(rows.remove_columns("timestamp"), trained)
    assert (
        "cannot check whether the bank was trained on these rows: its training rows had timestamps, these have none"
        in caplog.text
    )
