"""Users who join a bank: trained against its base and head, which stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments, RatingTask
from puma_hub.cli.main import main
from puma_hub.data import of_users
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, MismatchError
from puma_hub.tasks import RatingHead
from tests.conftest import make_interactions
from tests.test_training import Killed, kill_after

QUIET = PumaTrainingArguments(num_train_epochs=3, per_device_train_batch_size=16, disable_tqdm=True, seed=7)
OLD = [f"user-{number}" for number in range(6)]
NEW = ["user-6", "user-7"]


def random_bank(lm: PersonalizedLM, **facts: object) -> PromptBank:
    """A bank as from training, and the colour that each of its users likes."""
    torch.manual_seed(0)
    prompts = np.random.default_rng(1).normal(size=(6, 1, 32)).astype(np.float32)
    facts = {"template": lm.template, "task": lm.task, "details": {"prompt_method": "shared"}, **facts}
    bank = PromptBank.from_arrays(OLD, prompts, lm.spec, head=RatingHead().start_at(3.0), **facts)
    coloured = bank.dataset.add_column("colour", ["red", "blue"] * 3)  # type: ignore[call-arg]
    return PromptBank(coloured, bank.provenance, bank.head)


def test_new_users_are_added_and_nothing_else_changes(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    lm = make_lm()
    bank = random_bank(lm, details={"prompt_method": "shared", "users": 6, "rows": 60})
    assert bank.head is not None
    before = {name: tensor.clone() for name, tensor in bank.head.state_dict().items()}
    trainer = PromptTrainer(lm, of_users(interactions, NEW), QUIET, bank=bank)
    joined = trainer.train()
    assert joined.user_ids == OLD + NEW and bank.user_ids == OLD
    assert np.array_equal(joined.prompts[:6], bank.prompts)
    mean = bank.prompts.mean(0)
    moved = [float(np.abs(joined[user] - mean).max()) for user in NEW]
    assert min(moved) > 1e-4 and max(moved) < 1.0, moved
    assert not np.array_equal(joined[NEW[0]], joined[NEW[1]])
    assert joined.dataset["colour"][:] == [*["red", "blue"] * 3, None, None]
    assert joined.head is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in joined.head.state_dict().items())
    (added,) = joined.provenance.details["added"]
    assert (added["users"], added["renewed"], added["rows"]) == (2, 0, 24) and added["when"].startswith("20")
    assert joined.provenance.details["users"] == 6  # what the base was trained on
    report = trainer.report
    assert report["bank"] == {
        "users_before": 6,
        "added": 2,
        "renewed": 0,
        "base": "the mean prompt of the bank's training",
    }
    assert report["users"] == 2 and report["best_epoch"] == 3 and report["validation_losses"] == [None] * 3
    assert len(trainer.users) == 2 and report["rows"] == 24
    assert np.array_equal(trainer.train().prompts, joined.prompts)


def test_present_users_are_renewed_where_they_are(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    lm = make_lm()
    bank = random_bank(lm)
    once = PromptTrainer(lm, of_users(interactions, ["user-2", "user-7"]), QUIET, bank=bank).train()
    assert once.user_ids == [*OLD, "user-7"]
    others = [0, 1, 3, 4, 5]
    assert np.array_equal(once.prompts[others], bank.prompts[others])
    assert not np.array_equal(once["user-2"], bank["user-2"])
    assert once.dataset["colour"][:] == [*["red", "blue"] * 3, None]
    twice = PromptTrainer(lm, of_users(interactions, ["user-7"]), QUIET, bank=once).train()
    counts = [(step["users"], step["renewed"]) for step in twice.provenance.details["added"]]
    assert counts == [(1, 1), (0, 1)] and twice.user_ids == once.user_ids


def test_a_user_who_joins_gets_nearly_the_prompt_of_joint_training(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows, lm, new = make_interactions(users=10, rows=20), make_lm(), "user-9"
    args = PumaTrainingArguments(
        prompt_method="shared",
        num_train_epochs=12,
        learning_rate=5e-2,
        head_learning_rate=2e-2,
        offset_penalty=1e-3,
        per_device_train_batch_size=32,
        validation_share=0.0,
        disable_tqdm=True,
        seed=7,
    )
    old, own = [f"user-{number}" for number in range(9)], of_users(rows, [new])
    joint = PromptTrainer(lm, rows, args).train()
    again = PromptTrainer(lm, own, args, bank=joint).train()
    others = PromptTrainer(lm, of_users(rows, old), args).train()
    joined = PromptTrainer(lm, own, args, bank=others).train()

    def offset(bank: PromptBank) -> np.ndarray:
        return bank[new] - bank.select(old).prompts.mean(0)

    def alike(bank: PromptBank) -> float:
        return float(
            (offset(joint) * offset(bank)).sum() / np.linalg.norm(offset(joint)) / np.linalg.norm(offset(bank))
        )

    def predictions(bank: PromptBank, prompt: np.ndarray) -> np.ndarray:
        assert bank.head is not None
        prompts = torch.from_numpy(prompt.copy()).expand(len(own), -1, -1)
        with torch.no_grad():
            return bank.head(lm.logits(prompts, own.select_columns(["item_text"]))).numpy()

    # With the base and head of joint training itself, and with those that the others alone have led to.
    assert alike(again) > 0.9 and alike(joined) > 0.8
    for bank in (again, joined):
        assert np.linalg.norm(offset(bank)) == pytest.approx(np.linalg.norm(offset(joint)), rel=0.25)
    together, mean = predictions(joint, joint[new]), predictions(joint, joint.prompts.mean(0))
    far = np.abs(mean - together).mean()
    assert far > 0.3 and np.abs(predictions(again, again[new]) - together).mean() < 0.1 * far
    labels = np.array(own["label"])
    errors = [
        np.square(predictions(others, prompt) - labels).mean() for prompt in (joined[new], others.prompts.mean(0))
    ]
    assert errors[0] < errors[1]


def test_resumed_they_are_the_same_bits_and_another_bank_is_refused(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, tmp_path: Path
) -> None:
    lm, rows = make_lm(), of_users(interactions, NEW)
    bank = random_bank(lm)
    whole = PromptTrainer(lm, rows, QUIET, bank=bank).train()
    kept = replace(QUIET, output_dir=str(tmp_path), checkpoint_seconds=0)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 5)
        with pytest.raises(Killed):
            PromptTrainer(lm, rows, kept, bank=bank).train()
    other = PromptBank.from_arrays(OLD, bank.prompts * 2, lm.spec, head=bank.head, details=bank.provenance.details)
    for wrong in (other, None):
        with pytest.raises(CheckpointError, match="other settings or data"):
            PromptTrainer(lm, rows, replace(kept, validation_share=0.0), bank=wrong).train()
    resumed = PromptTrainer(lm, rows, kept, bank=bank).train()
    assert np.array_equal(resumed.prompts, whole.prompts)


def test_independent_prompts_have_no_base_and_that_is_said(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    lm, rows = make_lm(), of_users(interactions, NEW)
    bank = random_bank(lm, details={"prompt_method": "independent"})
    with caplog.at_level(logging.WARNING):
        trainer = PromptTrainer(lm, rows, replace(QUIET, learning_rate=1e-9), bank=bank)
    assert "no shared base" in caplog.text and "user-" not in caplog.text
    joined = trainer.train()
    assert trainer.report["bank"]["base"].startswith("none") and trainer.report["prompt_method"] == "independent"
    assert all(np.abs(joined[user]).max() < 0.11 for user in NEW)  # where they began
    with pytest.raises(ConfigurationError, match="by the method 'independent', prompt_method='shared'"):
        PromptTrainer(lm, rows, replace(QUIET, prompt_method="shared"), bank=bank)


def test_a_bank_without_a_head_stays_so(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    lm = make_lm()
    bank = random_bank(lm)
    joined = PromptTrainer(
        lm, of_users(interactions, NEW), QUIET, bank=PromptBank(bank.dataset, bank.provenance)
    ).train()
    assert joined.head is None and len(joined) == 8


def test_what_does_not_fit(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    lm, rows = make_lm(), of_users(interactions, NEW)
    bank = random_bank(lm)
    with pytest.raises(MismatchError, match="other weights"):
        PromptTrainer(make_lm(seed=1), rows, QUIET, bank=bank)
    with pytest.raises(MismatchError, match="give the scorer the bank's template"):
        PromptTrainer(make_lm(template="<item> for <user>: "), rows, QUIET, bank=bank)
    with pytest.raises(MismatchError, match="another task"):
        PromptTrainer(make_lm(task=RatingTask((1, 2, 3, 4, 5, 6))), rows, QUIET, bank=bank)
    with pytest.raises(MismatchError, match="have length 1, prompt_length=2"):
        PromptTrainer(lm, rows, replace(QUIET, prompt_length=2), bank=bank)
    with pytest.raises(BankError, match="is empty"):
        PromptTrainer(lm, rows, QUIET, bank=bank.remove(OLD))
    with pytest.raises(MismatchError, match="hidden size"):
        PromptTrainer(lm, rows, QUIET, bank=PromptBank.from_arrays(["a"], np.ones((1, 1, 8)), ModelSpec("m", 8)))


def test_the_command_adds_users(
    saved_lm: Callable[..., str], interactions: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = PersonalizedLM.from_pretrained(saved_lm(), template="<item> for <user>: ")
    random_bank(lm).save_pretrained(tmp_path / "old")
    of_users(interactions, [*NEW, "user-0"]).to_csv(tmp_path / "rows.csv", index=False)
    places = ["--interactions", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    status = main(["fit", "--model", saved_lm(), "--bank", str(tmp_path / "old"), "--epochs", "1", *places])
    assert status == 0 and "2 users added and 1 retrained" in capsys.readouterr().out
    joined = PromptBank.from_pretrained(tmp_path / "out" / "bank")
    assert joined.user_ids == OLD + NEW and joined.provenance.template == "<item> for <user>: "
