"""Prompts of items beside those of users: scored, trained, evaluated and migrated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from transformers import PreTrainedTokenizerFast

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaTrainingArguments,
    cold_start,
    compare_banks,
    evaluate_bank,
    migrate,
    with_source_predictions,
)
from puma_hub.adapter.card import adapter_card, pair_block
from puma_hub.bank.card import bank_card
from puma_hub.bank.distribution import PromptDistribution
from puma_hub.bank.filling import filled_slot
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.migration import chain
from puma_hub.registry.published import read_listing
from puma_hub.tasks.template import ITEM
from puma_hub.training import item_base
from tests.conftest import make_model, make_tokenizer
from tests.two_slots import ITEMS, make_rows, plain, two_slots

QUIET = PumaTrainingArguments(
    disable_tqdm=True,
    seed=3,
    per_device_train_batch_size=16,
    validation_share=0.0,
    learning_rate=1e-2,
    base_learning_rate=5e-2,
    head_learning_rate=3e-3,
)


@dataclass(frozen=True)
class Trained:
    """Users and items of one LLM, trained one after the other."""

    lm: PersonalizedLM
    rows: datasets.DatasetDict
    users: PromptBank
    items: PromptBank


@pytest.fixture(scope="module")
def source() -> Trained:
    lm, rows = two_slots("qwen3"), make_rows()
    args = replace(QUIET, num_train_epochs=12, head_learning_rate=2e-2)  # a tiny random model hardly feels its prompts
    users = PromptTrainer(lm, rows["train"], args).train()
    items = PromptTrainer(lm, rows["train"], QUIET, given=users).train()
    return Trained(lm, rows, users, items)


@pytest.fixture(scope="module")
def target(source: Trained) -> tuple[Trained, PumaAdapter, PumaAdapter]:
    """The same on another LLM, both migrated, and the adapters of users and of items."""
    lm, train = two_slots("phi3", 1), source.rows["train"]
    taught = with_source_predictions(source.lm, source.users, train, noise=0)
    for_users = AdapterTrainer(lm, source.users, taught, QUIET).train()
    users = migrate(for_users, source.users)
    taught = with_source_predictions(source.lm, source.items, train, noise=0, given=source.users)
    for_items = AdapterTrainer(lm, source.items, taught, QUIET, given=users).train()
    return Trained(lm, source.rows, users, migrate(for_items, source.items)), for_users, for_items


# Training


def test_an_item_is_a_ridge_regression_on_its_rows(source: Trained, tokenizer: PreTrainedTokenizerFast) -> None:
    """Linearised by plain forwards at the word that all items begin with, and solved by sklearn."""
    lm, train = source.lm, source.rows["train"]
    known = source.items.provenance.details["variances"]
    base = lm.word_prompt(1, ITEM)
    compared = 0
    for name in source.items.user_ids[:4]:
        rows = [row for row in train if row["item_id"] == name]
        gradients, lacking = [], []
        for row in rows:
            prompt = base.clone().requires_grad_(True)
            user = torch.from_numpy(source.users[row["user_id"]].copy())
            prediction = source.users.head(plain(lm, tokenizer, row, user=user, item_prompt=prompt)[None])
            (gradient,) = torch.autograd.grad(prediction.sum(), prompt)
            gradients.append(lm.embedding_rms * gradient.flatten().double().numpy())
            lacking.append(row["label"] - prediction.item())
        ridge = Ridge(alpha=known["noise"] / known["offset"], fit_intercept=False, solver="svd")
        step = ridge.fit(np.array(gradients), np.array(lacking)).coef_
        found = (source.items[name].flatten() - base.numpy().flatten()) / lm.embedding_rms
        taken = float(found @ step / (step @ step))  # all of the step, or a half, a quarter, ... where it overshoots
        np.testing.assert_allclose(found, taken * step, atol=5e-3 * np.abs(step).max())
        assert min(abs(taken - share) for share in (1.0, 0.5, 0.25, 0.125)) < 5e-3
        compared += taken > 0.9
    assert compared >= 1


def test_item_prompts_predict_what_their_texts_do_not_show(source: Trained) -> None:
    report = evaluate_bank(source.lm, source.users, source.rows, items=source.items)
    with_mean = report["item_prompts"]["metrics_with_mean"]["rmse"]
    assert report["metrics"]["rmse"] < 0.95 * with_mean
    assert report["item_prompts"]["rows_without_prompt"] == 0
    without = evaluate_bank(source.lm, source.users, source.rows)
    assert without["metrics"]["rmse"] == pytest.approx(with_mean, rel=1e-5)  # the mean is the word: there are few items
    half = source.items.select(source.items.user_ids[::2])
    part = evaluate_bank(source.lm, source.users, source.rows, items=half)
    held_out = source.rows["validation"]["item_id"][:]
    assert part["item_prompts"]["rows_without_prompt"] == sum(name not in half for name in held_out)
    assert report["metrics"]["rmse"] < part["metrics"]["rmse"] < with_mean


def test_what_a_bank_of_items_records(source: Trained) -> None:
    items, report = source.items, PromptTrainer(source.lm, source.rows["train"], QUIET, given=source.users)
    assert items.provenance.owners == "items" and items.user_ids == sorted(set(source.rows["train"]["item_id"][:]))
    assert items.provenance.details["given"] == {"owners": "users", "base_id": source.users.statistics.base_id}
    assert items.provenance.details["mean_answers"] == source.users.provenance.details["mean_answers"]
    assert items.statistics.sensitivity is not None and "given" not in source.users.provenance.details
    weights = (bank.head.state_dict().values() for bank in (items, source.users))
    assert all(torch.equal(one, other) for one, other in zip(*weights))
    assert np.array_equal(report.train().prompts, items.prompts)
    assert report.report["owners"] == "items" and report.report["losses"] == []


def test_users_and_items_are_renewed_in_turns(source: Trained) -> None:
    train = source.rows["train"]
    users = PromptTrainer(source.lm, train, QUIET, bank=source.users, given=source.items).train()
    assert users.user_ids == source.users.user_ids and not np.array_equal(users.prompts, source.users.prompts)
    assert users.provenance.details["given"]["owners"] == "items"
    items = PromptTrainer(source.lm, train, QUIET, bank=source.items, given=users).train()
    assert items.user_ids == source.items.user_ids and items.provenance.owners == "items"
    first = evaluate_bank(source.lm, source.users, source.rows, items=source.items)["metrics"]["rmse"]
    later = evaluate_bank(source.lm, users, source.rows, items=items)["metrics"]["rmse"]
    assert later < 1.05 * first
    with pytest.raises(MismatchError, match="no bank of items is given"):
        evaluate_bank(source.lm, users, source.rows)


def test_users_can_be_trained_beside_items_from_the_start(source: Trained) -> None:
    bank = PromptTrainer(
        source.lm, source.rows["train"], replace(QUIET, num_train_epochs=1), given=source.items
    ).train()
    assert bank.provenance.owners == "users" and bank.user_ids == source.users.user_ids
    assert bank.provenance.details["given"]["owners"] == "items"


# Migration


def test_users_and_items_are_migrated(source: Trained, target: tuple[Trained, PumaAdapter, PumaAdapter]) -> None:
    moved, for_users, for_items = target
    assert (for_users.config.owners, for_items.config.owners) == ("users", "items")
    assert moved.items.provenance.owners == "items" and moved.items.user_ids == source.items.user_ids
    weights = (head.state_dict().values() for head in (for_items.head, for_users.head, moved.items.head))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*weights))  # the users' head stays
    report = evaluate_bank(moved.lm, moved.users, moved.rows, items=moved.items)
    assert report["metrics"]["rmse"] < 0.95 * report["item_prompts"]["metrics_with_mean"]["rmse"]
    banks = {"items": (source.items, moved.items)}
    compared = compare_banks(source.lm, source.users, moved.lm, moved.users, source.rows["validation"], **banks)
    assert compared["target"]["own"] == pytest.approx(report["metrics"]["rmse"], rel=1e-6)


def test_an_adapter_of_users_migrates_items_to_a_base_of_theirs(
    source: Trained, target: tuple[Trained, PumaAdapter, PumaAdapter]
) -> None:
    moved, for_users, for_items = target
    with pytest.raises(MismatchError, match=r"trained for prompts of users: the bank holds prompts of items"):
        migrate(for_users, source.items)
    with pytest.raises(MismatchError, match=r"trained for prompts of items: the bank holds prompts of users"):
        migrate(for_items, source.users)
    base = item_base(moved.lm, moved.users, source.rows["train"])
    with pytest.raises(ConfigurationError, match="leave base out"):
        migrate(for_items, source.items, base=base)
    assert np.array_equal(base.mean, moved.lm.word_prompt(1, ITEM).numpy())
    items = migrate(for_users, source.items, base=base)
    assert items.provenance.owners == "items" and items.provenance.details["own_source_bank"] is False
    own = migrate(for_users, source.items.with_provenance(owners="users"))  # at the base of users
    mean, sensitivity = for_users.output_mean.numpy(), for_users.output_sensitivity.numpy()
    before = ((own.prompts - mean) * sensitivity).sum((1, 2))
    after = ((items.prompts - base.mean) * base.sensitivity).sum((1, 2))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())
    report = evaluate_bank(moved.lm, moved.users, moved.rows, items=items)
    assert report["metrics"]["rmse"] < 0.95 * report["item_prompts"]["metrics_with_mean"]["rmse"]
    as_they_are = migrate(for_users, source.items, base=replace(base, sensitivity=None))
    np.testing.assert_allclose(as_they_are.prompts - base.mean, own.prompts - mean, atol=1e-4)
    with pytest.raises(MismatchError, match="the base must be"):
        migrate(for_users, source.items, base=replace(base, mean=base.mean[:, :5]))


def test_an_adapter_of_users_can_be_trained_on_for_items(
    source: Trained, target: tuple[Trained, PumaAdapter, PumaAdapter]
) -> None:
    moved, for_users, _ = target
    args = replace(QUIET, num_train_epochs=1)
    trainer = AdapterTrainer(moved.lm, source.items, source.rows["train"], args, init=for_users, given=moved.users)
    word = moved.lm.word_prompt(1, ITEM) / moved.lm.embedding_rms
    assert torch.allclose(trainer.adapter.base, word) and not torch.allclose(for_users.base, word)
    assert torch.equal(trainer.adapter.network.residual.weight, for_users.network.residual.weight)
    trained = trainer.train()
    assert trained.config.owners == "items" and trainer.report["owners"] == "items"
    assert not torch.equal(trained.network.residual.weight, for_users.network.residual.weight)


def test_the_teacher_of_items_reads_users_beside_them(source: Trained) -> None:
    rows = source.rows["train"].select(range(8))
    taught = with_source_predictions(
        source.lm, source.items, rows, offset_share=1.0, spread=1.0, noise=0, given=source.users
    )
    prompts = torch.from_numpy(np.stack([source.items[name] for name in rows["item_id"][:]]))
    logits = source.lm.logits(prompts, source.lm.encode(rows, 1, filled_slot(source.users, rows)))
    np.testing.assert_allclose(taught["source_prediction"][:], source.users.head(logits).detach(), atol=1e-4)


# The wrong kind


def test_the_wrong_kind_is_refused(source: Trained, target: tuple[Trained, PumaAdapter, PumaAdapter]) -> None:
    lm, rows, users, items = source.lm, source.rows, source.users, source.items
    moved, for_users, for_items = target
    train = rows["train"]
    one_slot = PersonalizedLM(lm.model, lm.tokenizer, model_id="tiny/qwen3-0")
    unknown = users.with_provenance(template=None)
    taught = with_source_predictions(lm, items, train, noise=0, given=users)
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("holds prompts of items; give a bank of users", lambda: evaluate_bank(lm, items, rows)),
        ("holds prompts of users; give a bank of items", lambda: evaluate_bank(lm, users, rows, items=users)),
        ("no bank of users is given", lambda: PromptTrainer(lm, train, QUIET, bank=items)),
        ("both banks hold prompts of items", lambda: PromptTrainer(lm, train, QUIET, bank=items, given=items)),
        ("no other soft slot", lambda: PromptTrainer(one_slot, train, QUIET, given=unknown)),
        ("no bank of users is given", lambda: with_source_predictions(lm, items, train)),
        ("no other soft slot", lambda: item_base(one_slot, unknown, train)),
        ("give the bank of users on the target LLM as given=", lambda: AdapterTrainer(moved.lm, items, taught, QUIET)),
        (
            "given prompts: the bank holds prompts of items",
            lambda: AdapterTrainer(moved.lm, items, taught, QUIET, given=moved.items),
        ),
        (
            "aggregation: the bank holds prompts of items",
            lambda: AdapterTrainer(moved.lm, [users, items], train, QUIET),
        ),
        (
            "of another model|other weights|differ|another LLM",
            lambda: AdapterTrainer(moved.lm, items, taught, QUIET, given=users),
        ),
        ("hold prompts of users and of items", lambda: users.update(items)),
        ("cold start: the bank holds prompts of items", lambda: cold_start(for_users, items, ["new"])),
    ]
    for text, call in wrong:
        with pytest.raises(MismatchError, match=text):
            call()
    back = PumaAdapter(type(for_items.config)(sources=[moved.lm.spec], target=lm.spec, owners="items"))
    with pytest.raises(MismatchError, match="adapter 2 of the chain was trained for prompts of items"):
        chain(users, [for_users, back])
    with pytest.raises(ConfigurationError, match="prompts belong to users or items"):
        PromptBank.from_arrays(["a"], np.zeros((1, 1, 32)), lm.spec, owners="films")


def test_a_pipeline_refuses_prompts_that_stand_beside_others(source: Trained) -> None:
    from transformers import pipeline

    with pytest.raises(MismatchError, match="no bank of users is given"):
        pipeline("personalized-scoring", model=source.lm, bank=source.items)


# Files


def test_files_keep_whose_prompts_these_are(
    source: Trained, target: tuple[Trained, PumaAdapter, PumaAdapter], tmp_path: Path
) -> None:
    source.items.save_pretrained(tmp_path / "items")
    read = PromptBank.from_pretrained(tmp_path / "items")
    assert read.provenance.owners == "items" and f"{ITEMS} items" in repr(read)
    assert read.select(read.user_ids[:3]).provenance.owners == "items"
    card = str(bank_card(read, "somebody/items"))
    assert "The *soft prompts* of 10 items" in card and "| items | 10 |" in card and "owners: items" in card
    assert "of 32 users" in str(bank_card(source.users, "somebody/users"))
    target[2].save_pretrained(tmp_path / "adapter")
    assert PumaAdapter.from_pretrained(tmp_path / "adapter").config.owners == "items"
    many = PromptBank.from_arrays(
        [f"item-{number}" for number in range(40)],
        np.random.default_rng(0).normal(size=(40, 1, 32)),
        source.lm.spec,
        owners="items",
    )
    PromptDistribution.of(many).save(tmp_path / "distribution.safetensors")
    drawn = PromptDistribution.load(tmp_path / "distribution.safetensors").sample(5)
    assert drawn.provenance.owners == "items"
    assert migrate(target[2], read).provenance.history[-1]["owners"] == "items"


def test_a_published_adapter_of_items_is_no_adapter_of_the_pair(
    target: tuple[Trained, PumaAdapter, PumaAdapter],
) -> None:
    _, for_users, for_items = target
    with pytest.raises(ConfigurationError, match="prompts of items, and the pair's own repository"):
        for_items.push_to_hub()
    found = []
    for adapter in (for_users, for_items):
        block = json.loads(json.dumps(pair_block(adapter.config)))
        found.append(read_listing({"id": "somebody/adapter", "cardData": {"puma_hub": block}}))
    assert found[0] is not None and found[1] is None
    assert "adapter is for prompts of items" in str(adapter_card(for_items, "somebody/adapter"))
    assert "adapter is for prompts of items" not in str(adapter_card(for_users, "somebody/adapter"))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(tmp_path / family)
        make_tokenizer().save_pretrained(tmp_path / family)
    rows = make_rows()
    datasets.concatenate_datasets([rows["train"], rows["validation"]]).to_csv(tmp_path / "rows.csv", index=False)

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    seen = ("--interactions", tmp_path / "rows.csv")
    short = ("--epochs", 1, "--batch-size", 32)
    source, target = ("--model", tmp_path / "llama"), ("--target", tmp_path / "gemma3", "--teacher", tmp_path / "llama")
    users, items = tmp_path / "u" / "bank", tmp_path / "i" / "bank"
    assert run("fit", *source, *seen, "--template", "rating-items", "--out", tmp_path / "u", *short) == 0
    assert run("fit", *source, *seen, "--given", users, "--out", tmp_path / "i") == 0
    assert run("train", *target, "--bank", users, *seen, "--out", tmp_path / "mu", *short) == 0
    moved = tmp_path / "moved-users", tmp_path / "moved-items"
    assert run("migrate", "--adapter", tmp_path / "mu" / "adapter", "--bank", users, "--out", moved[0]) == 0
    given = ("--given", moved[0], "--source-given", users)
    texts = dict(zip(rows["train"]["item_id"], rows["train"]["item_text"]))
    listed = [f"{name},{text} {name}" for name, text in texts.items()]  # each text once
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("\n".join(["item_id,item_text", *listed]))
    drawn = ("--catalogue", catalogue, "--draw", 64)
    for learnt, folder in ((drawn, "drawn"), ((*seen, "--rows", "own"), "mi")):
        assert run("train", *target, "--bank", items, *learnt, *given, "--out", tmp_path / folder, *short) == 0
        assert "trained on 9 items" in capsys.readouterr().out
    assert run("migrate", "--adapter", tmp_path / "mi" / "adapter", "--bank", items, "--out", moved[1]) == 0
    assert "10 items" in capsys.readouterr().out
    evaluate = ("evaluate", "--model", tmp_path / "gemma3", *seen)
    assert run(*evaluate, "--bank", moved[0], "--item-bank", moved[1]) == 0
    assert "one mean prompt for all items" in capsys.readouterr().out
    assert run(*evaluate, "--bank", moved[1], "--item-bank", moved[0]) != 0
    assert "holds prompts of items; give a bank of users" in capsys.readouterr().err
