"""An adapter that learns from the source LLM's predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from puma_hub import AdapterTrainer, ClickTask, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments
from puma_hub.bank.distribution import PromptDistribution
from puma_hub.data import catalogue_of, of_users
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, InteractionsError, MismatchError
from puma_hub.tasks import RatingHead, RatingTask
from puma_hub.training import draw_rows, with_source_predictions
from puma_hub.training.defaults import ADAPTER_DEFAULTS
from puma_hub.training.teacher import AVERAGED, SPREAD, TEACHER_COLUMNS
from tests.conftest import make_interactions

QUIET = PumaTrainingArguments(num_train_epochs=2, per_device_train_batch_size=16, disable_tqdm=True, seed=3)


@pytest.fixture
def source(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> tuple[PersonalizedLM, PromptBank]:
    lm = make_lm("llama")
    return lm, PromptTrainer(lm, interactions, QUIET).train()


def test_predictions_are_the_sources_own(
    source: tuple[PersonalizedLM, PromptBank], interactions: datasets.Dataset
) -> None:
    lm, bank = source
    mixed = interactions.shuffle(seed=1)
    taught = with_source_predictions(lm, bank, mixed, offset_share=1.0, spread=1.0, noise=0)
    assert taught.column_names == [*interactions.column_names, "source_prediction", "source_probabilities"]
    assert taught["user_id"][:] == mixed["user_id"][:] and bank.head is not None
    for row in (0, 17, 95):
        text = [{"item_text": mixed["item_text"][row]}]
        logits = lm.logits(torch.from_numpy(bank[mixed["user_id"][row]][None].copy()), text).detach()
        expected = bank.head(logits).item()
        assert taught["source_prediction"][row] == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(taught["source_probabilities"][row], logits.softmax(-1)[0], atol=1e-4)
    again = with_source_predictions(lm, bank, taught, noise=0)  # made anew, not twice
    assert again.column_names == taught.column_names


def test_noise_is_the_rows_own_and_the_llm_is_asked_with_it(
    source: tuple[PersonalizedLM, PromptBank], interactions: datasets.Dataset
) -> None:
    lm, bank = source
    noise = {"noise": 1.5, "spread": 1.0, "offset_share": 1.0}
    taught = with_source_predictions(lm, bank, interactions, **noise)
    prompts = np.array(taught["source_prompt"][:], dtype=np.float32).reshape(-1, *bank.shape)
    added = (prompts - bank.prompts[bank.rows(interactions["user_id"][:])]) / bank.statistics.spread
    assert abs(added.mean()) < 0.1 and added.std() == pytest.approx(1.5, rel=0.05)
    for row in (0, 17, 95):
        logits = lm.logits(torch.from_numpy(prompts[row][None]), [{"item_text": interactions["item_text"][row]}])
        assert taught["source_prediction"][row] == pytest.approx(bank.head(logits).item(), abs=1e-4)
    order = np.random.default_rng(0).permutation(len(interactions))
    shuffled = with_source_predictions(lm, bank, interactions.select(order[:40]), **noise, batch_size=7)
    assert np.array_equal(np.array(shuffled["source_prompt"][:], np.float32), prompts[order[:40]])
    other = with_source_predictions(lm, bank, interactions, **noise, seed=1)
    assert not np.array_equal(np.array(other["source_prompt"][:], np.float32), prompts)
    without = with_source_predictions(lm, bank, taught, noise=0)
    assert "source_prompt" not in without.column_names


def test_the_adapter_learns_from_the_prompts_that_were_asked_with(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    """The same as rows of users of their own, whose prompts these are."""
    lm, bank = source
    taught = with_source_predictions(lm, bank, interactions, noise=2.0)
    names = [f"row-{row:03d}" for row in range(len(taught))]
    prompts = np.array(taught["source_prompt"][:], dtype=np.float32).reshape(-1, *bank.shape)
    known = {"head": bank.head, "task": bank.provenance.task, "statistics": bank.statistics}
    alone = PromptBank.from_arrays(names, prompts, bank.model, template=bank.provenance.template, **known)
    theirs = taught.remove_columns(["user_id", "source_prompt"]).add_column("user_id", names)
    target = make_lm("gemma3", seed=1)
    for epochs in (0, 1):
        args = replace(QUIET, validation_share=0.0, num_train_epochs=epochs)
        one = AdapterTrainer(target, bank, taught, args).train().state_dict()
        two = AdapterTrainer(target, alone, theirs, args).train().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one if not name.startswith("output_"))
    bare, size = taught.remove_columns("source_prompt"), bank.shape[1]
    for wrong in (
        [[[1.0]]],
        [[1.0] * size],
        [[[1.0] * size] * 2],
        [[[1.0] * size], [[1.0]]],
        [[[float("nan")] * size]],
    ):
        values = [wrong[number % len(wrong)] for number in range(len(bare))]
        with pytest.raises(InteractionsError, match="source_prompt must hold"):
            AdapterTrainer(target, bank, bare.add_column("source_prompt", values), QUIET)


def test_prompts_are_drawn_in_and_logits_spread_by_hand(
    source: tuple[PersonalizedLM, PromptBank], interactions: datasets.Dataset
) -> None:
    lm, bank = source
    taught = with_source_predictions(lm, bank, interactions, offset_share=0.4, spread=1.5, noise=0)
    mean = bank.prompts.mean(0)
    logits = []
    for user, item in zip(interactions["user_id"], interactions["item_text"]):
        prompt = torch.from_numpy(mean + 0.4 * (bank[user] - mean))[None]
        logits.append(lm.logits(prompt, [{"item_text": item}]).detach()[0].double().numpy())
    centre = np.array(bank.provenance.details["mean_answers"])
    spread = centre + 1.5 * (logits - centre)
    assert bank.head is not None
    expected = bank.head(torch.from_numpy(spread).float()).detach().numpy()
    np.testing.assert_allclose(taught["source_prediction"][:], expected, atol=1e-4)
    shares = np.exp(spread) / np.exp(spread).sum(1, keepdims=True)
    np.testing.assert_allclose(taught["source_probabilities"][:], shares, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "share"),
    [("shared", 0.75), ("independent", 0.75), ("posterior", 1.0), ("sampled", 1.0), ("migrated", 1.0), ("given", 0.75)],
)
def test_prompts_are_shrunk_unless_they_are_already(
    made: str, share: float, make_lm: Callable[..., PersonalizedLM]
) -> None:
    lm, interactions = make_lm("llama"), make_interactions(32, 4)
    method = {"sampled": "posterior", "migrated": "shared", "given": "shared"}.get(made, made)
    bank = PromptTrainer(lm, interactions, replace(QUIET, prompt_method=method)).train()
    rows, spread = interactions, AVERAGED if method == "posterior" else SPREAD  # 32 latest rows are too few for a slope
    if made == "sampled":
        bank = PromptDistribution.of(bank).sample(len(bank), seed=1)
        rows = draw_rows(bank, catalogue_of(interactions), rows=96, seed=1)
    elif made == "migrated":
        taught = with_source_predictions(lm, bank, interactions)
        lm, spread = make_lm("gemma3"), AVERAGED  # the adapter learnt from sharpened answers
        bank = AdapterTrainer(lm, bank, taught, QUIET).train().migrate(bank)
    elif made == "given":  # by somebody who did not say how they were trained
        bank = PromptBank.from_arrays(
            bank.user_ids, bank.prompts, bank.model, head=bank.head, template=lm.template, task=lm.task
        )
        spread = 1.0
    usual = with_source_predictions(lm, bank, rows, noise=0)["source_prediction"][:]
    asked = with_source_predictions(lm, bank, rows, offset_share=share, spread=spread, noise=0)
    other = with_source_predictions(lm, bank, rows, offset_share=1.75 - share, spread=spread, noise=0)
    assert usual == asked["source_prediction"][:] != other["source_prediction"][:]


def test_logits_are_sharpened_by_the_slope_that_the_bank_records(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, interactions = make_lm("llama"), make_interactions(32, 4)
    bank = PromptTrainer(lm, interactions, replace(QUIET, prompt_method="posterior")).train()
    assert bank.provenance.details["calibration_slope"] == 1.0  # of 32 latest rows, too few to tell
    for recorded, spread in ((1.3, 1.43), (0.7, 0.77), (-1.0, 1.15), ("1.3", 1.15)):
        known = bank.with_provenance(details=bank.provenance.details | {"calibration_slope": recorded})
        usual = with_source_predictions(lm, known, interactions, noise=0)["source_prediction"][:]
        asked = with_source_predictions(lm, known, interactions, spread=spread, noise=0)["source_prediction"][:]
        other = with_source_predictions(lm, known, interactions, spread=1.0, noise=0)["source_prediction"][:]
        assert usual == asked != other


def test_what_is_said_of_a_row_depends_on_no_other_row(
    source: tuple[PersonalizedLM, PromptBank], interactions: datasets.Dataset
) -> None:
    lm, bank = source
    together = with_source_predictions(lm, bank, interactions, spread=3.0, noise=0)
    order = np.random.default_rng(0).permutation(96)
    mixed = with_source_predictions(lm, bank, interactions.select(order), spread=3.0, batch_size=7, noise=0)
    alone = with_source_predictions(lm, bank, interactions.select([40]), spread=3.0, noise=0)
    for name in TEACHER_COLUMNS:
        all_at_once = np.array(together[name][:])
        np.testing.assert_allclose(np.array(mixed[name][:]), all_at_once[order], atol=1e-5)
        np.testing.assert_allclose(np.array(alone[name][0]), all_at_once[40], atol=1e-5)


def test_a_bank_records_the_mean_answers_of_its_training(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    lm = make_lm()
    still = replace(QUIET, learning_rate=1e-12, base_learning_rate=1e-12, num_train_epochs=20, validation_share=0.0)
    still = replace(still, per_device_train_batch_size=96, prompt_method="shared")
    bank = PromptTrainer(lm, interactions, still).train()
    prompts = torch.from_numpy(np.stack([bank[user] for user in interactions["user_id"]]))
    with torch.no_grad():
        mean = lm.logits(prompts, interactions.select_columns(["item_text"])).mean(0)
    np.testing.assert_allclose(bank.provenance.details["mean_answers"], mean, atol=1e-4)
    none = bank.with_provenance(details={})
    plain = with_source_predictions(lm, none, interactions, noise=0)["source_prediction"][:]
    assert plain == with_source_predictions(lm, bank, interactions, spread=1.0, noise=0)["source_prediction"][:]
    with pytest.raises(ConfigurationError, match="PromptTrainer records in its banks; this bank has none"):
        with_source_predictions(lm, none, interactions, spread=1.15, noise=0)
    for wrong in ([1.0], "12345", ["x"] * 5):
        with pytest.raises(BankError, match="must be 5 numbers"):
            with_source_predictions(lm, bank.with_provenance(details={"mean_answers": wrong}), interactions, noise=0)


def test_migrated_prompts_come_with_the_mean_answers_at_their_mean(
    make_lm: Callable[..., PersonalizedLM], source: tuple[PersonalizedLM, PromptBank], interactions: datasets.Dataset
) -> None:
    lm, bank = source
    target = make_lm("gemma3", seed=1)
    adapter = AdapterTrainer(target, bank, with_source_predictions(lm, bank, interactions), QUIET).train()
    migrated = adapter.migrate(bank)
    with torch.no_grad():
        mean = adapter.output_mean.expand(len(interactions), -1, -1)
        expected = target.logits(mean, interactions.select_columns(["item_text"])).mean(0)
    np.testing.assert_allclose(migrated.provenance.details["mean_answers"], expected, atol=1e-4)
    adapter.config.trained_on = replace(adapter.config.trained_on, mean_answers=None)  # of an earlier version
    earlier = adapter.migrate(bank)
    assert "mean_answers" not in earlier.provenance.details
    with_source_predictions(target, earlier, interactions)


def test_loss_by_hand() -> None:
    head = RatingHead()
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    predictions, probabilities = (
        torch.tensor([3.4, 1.2]),
        torch.tensor([[0.1, 0.1, 0.2, 0.3, 0.3], [0.6, 0.1, 0.1, 0.1, 0.1]]),
    )
    squared = sum((float(head(logits)[i].detach()) - float(predictions[i])) ** 2 for i in range(2)) / 2
    entropy = 0.0
    for scores, shares in zip(logits.double().numpy(), probabilities.double().numpy()):
        entropy -= float(shares @ (scores - np.log(np.exp(scores).sum()))) / 2
    loss = RatingTask().loss(logits, predictions, head, probabilities)
    assert float(loss.detach()) == pytest.approx(0.8 * squared + 0.2 * entropy, rel=1e-5)


def test_the_adapter_follows_the_teacher_and_the_labels_by_weight(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    lm, bank = source
    target = make_lm("gemma3", seed=1)
    taught = with_source_predictions(lm, bank, interactions, noise=0)
    inverted = taught.remove_columns("label").add_column("label", [6.0 - label for label in interactions["label"]])
    args = replace(QUIET, validation_share=0.0, teacher_weight=1.0)
    one, two = (AdapterTrainer(target, bank, rows, args).train().state_dict() for rows in (taught, inverted))
    assert all(torch.equal(one[name], two[name]) for name in one)
    half = replace(args, teacher_weight=0.5)
    one, two = (AdapterTrainer(target, bank, rows, half).train().state_dict() for rows in (taught, inverted))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_without_weight_a_teacher_changes_nothing(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    lm, bank = source
    target = make_lm("gemma3", seed=1)
    taught = with_source_predictions(lm, bank, interactions, noise=0)
    args = replace(QUIET, teacher_weight=0.0, **_same_rates())
    one, two = (AdapterTrainer(target, bank, rows, args).train().state_dict() for rows in (taught, interactions))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_more_steps_come_closer_to_the_teacher(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    lm, bank = source
    target = make_lm("gemma3", seed=1)
    taught = with_source_predictions(lm, bank, interactions)
    trainer = AdapterTrainer(target, bank, taught, replace(QUIET, num_train_epochs=10, validation_share=0.0))
    trainer.train()
    assert trainer.report["learns_from"] == "source predictions"
    assert trainer.report["losses"][-1] < trainer.report["losses"][0]
    assert trainer.args.base_learning_rate == ADAPTER_DEFAULTS["source predictions"]["base_learning_rate"]


def test_validation_users_are_judged_by_their_labels(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    lm, bank = source
    taught = with_source_predictions(lm, bank, interactions, noise=0)
    trainer = AdapterTrainer(make_lm("gemma3"), bank, taught, replace(QUIET, validation_share=0.25))
    others = of_users(interactions, sorted(set(bank.user_ids) - set(trainer.users)))
    held_out = trainer._rows.validation
    assert held_out.labels.tolist() == others["label"][:] and held_out.predictions is None


def test_resumed_with_a_teacher_is_the_same_bits_and_another_teacher_is_refused(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
    tmp_path: Path,
) -> None:
    lm, bank = source
    target = make_lm("gemma3", seed=1)
    taught = with_source_predictions(lm, bank, interactions, noise=0)
    args = replace(QUIET, output_dir=str(tmp_path))
    first = AdapterTrainer(target, bank, taught, args).train().state_dict()
    second = AdapterTrainer(target, bank, taught, args).train().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(CheckpointError):
        AdapterTrainer(target, bank, interactions, replace(args, **_same_rates())).train()


def _same_rates() -> dict[str, float]:
    names = ("start_rows", "learning_rate", "base_learning_rate", "head_learning_rate", "offset_penalty")
    return {name: ADAPTER_DEFAULTS["source predictions"][name] for name in names}


def test_clicks_are_taught_too(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    clicks = interactions.remove_columns("label").add_column(
        "label", [float(label > 3) for label in interactions["label"]]
    )
    clicks = clicks.add_column("history", [["Toy Story", "Again"]] * len(clicks))
    lm = make_lm("llama", task=ClickTask(), template="click")
    bank = PromptTrainer(lm, clicks, QUIET).train()
    taught = with_source_predictions(lm, bank, clicks, noise=0)
    assert min(taught["source_prediction"]) > 0.0 and max(taught["source_prediction"]) < 1.0
    target = make_lm("gemma3", task=ClickTask(), template="click")
    trainer = AdapterTrainer(target, bank, taught, replace(QUIET, num_train_epochs=6, validation_share=0.0))
    trainer.train()
    assert trainer.report["losses"][-1] < trainer.report["losses"][0]


def test_what_does_not_fit(
    make_lm: Callable[..., PersonalizedLM],
    source: tuple[PersonalizedLM, PromptBank],
    interactions: datasets.Dataset,
) -> None:
    lm, bank = source
    with pytest.raises(MismatchError):
        with_source_predictions(make_lm("qwen2"), bank, interactions, noise=0)
    nobody = interactions.remove_columns("user_id").add_column("user_id", ["nobody"] * len(interactions))
    with pytest.raises(InteractionsError, match="none of 96 rows"):
        with_source_predictions(lm, bank, nobody, noise=0)
    for wrong in ({"offset_share": 0.0}, {"spread": -1.0}, {"spread": float("nan")}):
        with pytest.raises(ConfigurationError, match="must be greater than 0"):
            with_source_predictions(lm, bank, interactions, **wrong)
    taught = with_source_predictions(lm, bank, interactions, noise=0)
    target = make_lm("gemma3")
    with pytest.raises(InteractionsError, match="not the other"):
        AdapterTrainer(target, bank, taught.remove_columns("source_prediction"), QUIET)
    cut = taught.remove_columns("source_probabilities").add_column("source_probabilities", [[0.5, 0.5]] * len(taught))
    with pytest.raises(InteractionsError, match="must hold 5 numbers"):
        AdapterTrainer(target, bank, cut, QUIET)
    broken = taught.remove_columns("source_prediction").add_column("source_prediction", [float("nan")] * len(taught))
    with pytest.raises(InteractionsError, match="NaN or infinite"):
        AdapterTrainer(target, bank, broken, QUIET)
