"""Single, aggregated, chained and mixed migrations on every family, and teachers of several sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    best_teacher,
    chain,
    combine_teachers,
    evaluate_bank,
    migrate,
    with_source_predictions,
)
from puma_hub.bank.lineage import lineage_lines
from puma_hub.cli.main import main
from puma_hub.data import of_users
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.migration import chain_to
from puma_hub.tasks import RatingHead
from puma_hub.training.gauss_newton import start_by_gauss_newton
from tests.conftest import NAMED_FAMILIES, make_interactions, make_model

QUIET = PumaTrainingArguments(num_train_epochs=0, disable_tqdm=True, seed=3, validation_share=0.0)
Source = tuple[PersonalizedLM, PromptBank]


@pytest.fixture
def make_source(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Source]:
    """A scorer and a bank of its own, with prompts that differ enough for its answers to."""

    def build(family: str, size: int = 32, seed: int = 0, users: int = 8, length: int = 1) -> Source:
        model = make_model(family, seed, hidden_size=size)
        lm = PersonalizedLM(model, tokenizer, model_id=f"tiny/{family}-{size}-{seed}")
        torch.manual_seed(seed)
        prompts = np.random.default_rng(seed).normal(0.0, 2.0, (users, length, size)).astype(np.float32)
        known = {"head": RatingHead().start_at(3.0), "task": lm.task, "template": lm.template.text}
        return lm, PromptBank.from_arrays([f"user-{n}" for n in range(users)], prompts, lm.spec, **known)

    return build


def asked(sources: Sequence[Source], rows: datasets.Dataset, noise: float = 2.0) -> list[datasets.Dataset]:
    return [
        with_source_predictions(lm, bank, rows, noise=noise, seed=number) for number, (lm, bank) in enumerate(sources)
    ]


def trained(target: PersonalizedLM, sources: Sequence[Source], rows: datasets.Dataset) -> PumaAdapter:
    return AdapterTrainer(target, [bank for _, bank in sources], combine_teachers(asked(sources, rows)), QUIET).train()


@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_every_topology_on_every_family(make_source: Callable[..., Source], tmp_path: Path, family: str) -> None:
    interactions = make_interactions(30, 4)  # chains need the means of 30 users
    place = NAMED_FAMILIES.index(family)
    others = [NAMED_FAMILIES[(place + step) % len(NAMED_FAMILIES)] for step in (1, 2)]
    kinds = [(family, 32, 0), (others[0], 64, 1), (others[1], 32, 2)]
    sources = [make_source(name, size, seed, 30) for name, size, seed in kinds]
    target = make_source(family, 64, 3)[0]
    ends = {}
    for count in (1, 2, 3):
        adapter = trained(target, sources[:count], interactions)
        ends[count] = migrate(adapter, [bank for _, bank in sources[:count]])
        assert np.isfinite(evaluate_bank(target, ends[count], interactions)["metrics"]["rmse"])
        assert len(ends[count].provenance.parents) == count
    there = trained(target, sources[:1], interactions)
    back = trained(sources[0][0], [(target, migrate(there, sources[0][1]))], interactions)
    long = chain(sources[0][1], [there, back, there, back])
    assert np.isfinite(evaluate_bank(sources[0][0], long, interactions)["metrics"]["rmse"])
    assert [line.split(":")[0] for line in lineage_lines(long.provenance.lineage)[1:]] == [
        f"{number}. migrated from {number - 1}" for number in range(2, 6)
    ]
    joined = adapter  # of all three
    partly = [bank.remove([f"user-{number}"]) for number, (_, bank) in enumerate(sources)]
    onward = trained(sources[0][0], [(target, ends[3])], interactions)
    mixed = chain_to(tmp_path / "mixed", partly, [joined, onward], missing="mean", batch_size=3)
    assert len(mixed) == 30 and mixed.model == sources[0][0].spec
    for user in ("user-3", "user-17", "user-29"):
        expected = migrate(onward, migrate(joined, [bank.select([user]) for _, bank in sources]))
        assert np.array_equal(mixed[user], expected[user])


def test_the_mean_of_the_sources_predictions(
    make_source: Callable[..., Source], interactions: datasets.Dataset
) -> None:
    sources = [make_source("llama"), make_source("qwen2", 48, 1)]
    one, two = asked(sources, interactions)
    together = combine_teachers([one, two])
    uneven = combine_teachers([one, two], [3, 1])
    assert together.column_names == one.column_names and len(together) == len(interactions)
    for name in ("source_prediction", "source_probabilities"):
        ours, theirs = (np.array(rows[name][:]) for rows in (one, two))
        assert np.abs(ours - theirs).max() > 1e-3
        np.testing.assert_allclose(together[name][:], (ours + theirs) / 2, atol=1e-6)
        np.testing.assert_allclose(uneven[name][:], 0.75 * ours + 0.25 * theirs, atol=1e-6)
    prompts = [np.array(rows["source_prompt"][:], np.float32) for rows in (one, two, together)]
    assert prompts[2].shape == (96, 1, 80) and np.array_equal(prompts[2], np.concatenate(prompts[:2], axis=-1))
    without = combine_teachers(asked(sources, interactions, noise=0))
    assert "source_prompt" not in without.column_names
    assert combine_teachers([one])["source_prediction"][:] == pytest.approx(one["source_prediction"][:], abs=1e-6)


def test_prompts_of_several_soft_tokens_stand_side_by_side(
    make_source: Callable[..., Source], interactions: datasets.Dataset
) -> None:
    sources = [make_source("llama", length=3), make_source("qwen2", 48, 1, length=3)]
    told = asked(sources, interactions)
    together = np.array(combine_teachers(told)["source_prompt"][:], np.float32)
    one, two = (np.array(rows["source_prompt"][:], np.float32) for rows in told)
    assert together.shape == (96, 3, 80)
    assert np.array_equal(together[:, 2, :32], one[:, 2]) and np.array_equal(together[:, 1, 32:], two[:, 1])


def test_the_best_source_on_validation_rows(
    make_source: Callable[..., Source], interactions: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [make_source("llama"), make_source("qwen2", 48, 1), make_source("gemma3", 32, 2)]
    told = asked(sources, interactions, noise=0)
    labels = np.array(interactions["label"][:])
    errors = [float(np.sqrt(np.mean((np.array(rows["source_prediction"][:]) - labels) ** 2))) for rows in told]
    best = int(np.argmin(errors))
    with caplog.at_level("INFO", "puma_hub"):
        weights = best_teacher(told)
    assert weights == [float(number == best) for number in range(3)]
    assert all(f"{error:.4f}" in caplog.text for error in errors) and f"source {best + 1} is" in caplog.text
    chosen = combine_teachers(told, weights)
    assert chosen["source_prediction"][:] == pytest.approx(told[best]["source_prediction"][:], abs=1e-6)


def test_the_start_of_two_sources_is_the_start_of_one_bank_of_both(
    make_source: Callable[..., Source], interactions: datasets.Dataset
) -> None:
    """The prompts side by side are those of one bank: solved for once by the trainer, once with everything by hand."""
    sources = [make_source("llama"), make_source("qwen2", 48, 1)]
    target = make_source("gemma3", 32, 3)[0]
    taught = combine_teachers(asked(sources, interactions))
    trainer = AdapterTrainer(target, [bank for _, bank in sources], taught, replace(QUIET, start_rows=64))
    found = trainer.train()
    adapter = PumaAdapter(found.config)
    adapter.network.start_linear()
    statistics = [bank.statistics for _, bank in sources]
    mean = np.concatenate([part.mean for part in statistics], axis=-1)
    adapter.standardize(torch.from_numpy(mean), [part.spread for part in statistics], target.embedding_rms)
    with torch.no_grad():
        adapter.base.copy_(target.word_prompt(1) / target.embedding_rms)
    adapter.head.load_state_dict(sources[0][1].head.state_dict())
    prompts = torch.from_numpy(np.array(taught["source_prompt"][:], np.float32))
    order = torch.randperm(96, generator=torch.Generator().manual_seed(3))[:64]
    rows = trainer._rows.train.take(order)
    by_user = sorted(range(96), key=lambda row: taught["user_id"][row])  # stable
    assert np.array_equal(trainer._rows.teacher_prompts.numpy()[:, 0, :5], prompts.numpy()[by_user][:, 0, :5]) or (
        np.array_equal(trainer._rows.teacher_prompts.numpy(), prompts.numpy())
    )
    start_by_gauss_newton(
        adapter, target, trainer._rows.teacher_prompts, rows, rows.predictions, trainer.args.gradient_batch_size
    )
    np.testing.assert_allclose(
        adapter.network.residual.weight.detach(), found.network.residual.weight.detach(), atol=1e-4
    )
    parts = found.network.residual.weight.detach()
    assert parts[:, :32].norm() > 1e-3 and parts[:, 32:].norm() > 1e-3  # both sources are used


def test_two_sources_teach_what_one_of_them_does_not_know(make_source: Callable[..., Source]) -> None:
    """Fitted to the mean of two teachers, the adapter follows it more closely with both prompts than with one."""
    rows = make_interactions(30, 12)
    sources = [make_source("llama", users=30), make_source("qwen2", 48, 1, users=30)]
    target = make_source("gemma3", 32, 3)[0]
    told = asked(sources, rows, noise=0)
    spread = []  # tiny random models say nearly the same of all users; here they have a say
    for number, part in enumerate(told):
        own = np.random.default_rng(number).normal(size=30)
        said = [3.0 + own[int(user.removeprefix("user-"))] for user in part["user_id"]]
        spread.append(part.remove_columns("source_prediction").add_column("source_prediction", said))
    taught = combine_teachers(spread)
    errors = []
    for banks in ([sources[0][1]], [bank for _, bank in sources]):
        adapter = AdapterTrainer(target, banks, taught, replace(QUIET, start_rows=360)).train()
        moved = migrate(adapter, banks)
        predicted = with_source_predictions(target, moved, rows, noise=0, offset_share=1.0)
        errors.append(np.abs(np.subtract(predicted["source_prediction"][:], taught["source_prediction"][:])).mean())
    assert errors[1] < errors[0]


def test_wrong_teachers_are_refused(make_source: Callable[..., Source], interactions: datasets.Dataset) -> None:
    sources = [make_source("llama"), make_source("qwen2", 48, 1)]
    one, two = asked(sources, interactions)
    target, banks = make_source("gemma3", 32, 3)[0], [bank for _, bank in sources]
    refused = [
        ([], "mean", ConfigurationError, "no teacher given"),
        ([one, two], "median", ConfigurationError, "'median' is unknown; give 'mean', or a weight"),
        ([one, two], [1.0], ConfigurationError, "2 weights of at least 0"),
        ([one, two], [1.0, -1.0], ConfigurationError, "2 weights of at least 0"),
        ([one, two], [0, 0], ConfigurationError, "not all 0"),
        ([one, two], [float("nan"), 1], ConfigurationError, "2 weights"),
        ([one, two], [[1], [1]], ConfigurationError, "2 weights"),
        ([one, interactions], "mean", InteractionsError, "rows of source 2 lack source_prediction"),
        ([one, two.select(range(95))], "mean", InteractionsError, r"asked about other rows \(96 and 95"),
        ([one, two.select(range(95, -1, -1))], "mean", InteractionsError, "in one order"),
        ([one, two.remove_columns("source_prompt")], "mean", InteractionsError, "1 of 2 sources were asked with noise"),
    ]
    for teachers, how, error, says in refused:
        with pytest.raises(error, match=says):
            combine_teachers(teachers, how)
    elsewhere = two.remove_columns("user_id").add_column("user_id", ["nobody"] * len(two))
    with pytest.raises(InteractionsError, match="no users in common"):
        combine_teachers([one, elsewhere])
    with pytest.raises(InteractionsError, match=r"finite prompts \(1, 80\), those of all sources"):
        AdapterTrainer(target, banks, one, QUIET)
    with pytest.raises(InteractionsError, match=r"finite prompts \(1, 32\)"):
        AdapterTrainer(target, banks[0], combine_teachers([one, two]), QUIET)
    again = with_source_predictions(*sources[1], interactions, seed=0)
    with pytest.raises(ConfigurationError, match="sources 1 and 2 were asked with the same noise"):
        AdapterTrainer(target, banks, combine_teachers([one, again]), QUIET)
    with pytest.raises(MismatchError, match="takes 2 sources, 1 banks were given"):
        AdapterTrainer(target, banks[0], interactions, QUIET, config=PumaConfig([b.model for b in banks], target.spec))


def test_users_of_one_source_alone_are_left_out(
    make_source: Callable[..., Source], interactions: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    (lm, bank), other = make_source("llama"), make_source("qwen2", 48, 1)
    fewer = bank.remove(["user-3"]), other[1].remove(["user-5", "user-6"])
    with caplog.at_level("INFO", "puma_hub"):
        taught = combine_teachers(asked([(lm, fewer[0]), (other[0], fewer[1])], interactions))
    assert set(taught["user_id"]) == {f"user-{number}" for number in (0, 1, 2, 4, 7)}
    assert "3 users that some source was not asked about" in caplog.text and "user-" not in caplog.text
    kept = of_users(interactions, sorted(set(taught["user_id"])))
    assert taught["item_id"][:] == kept["item_id"][:]
    adapter = AdapterTrainer(make_source("gemma3", 32, 3)[0], fewer, taught, QUIET).train()
    assert len(migrate(adapter, fewer)) == 5


def test_two_teachers_on_the_command_line(
    tmp_path: Path, make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    folders = []
    for name, (family, size) in {"a": ("llama", 32), "b": ("qwen2", 48), "c": ("gemma3", 32)}.items():
        make_model(family, 0, hidden_size=size).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    for folder in folders[:2]:
        lm = PersonalizedLM.from_pretrained(folder)
        prompts = np.random.default_rng(0).normal(size=(8, 1, lm.spec.hidden_size)).astype(np.float32)
        known = {"head": RatingHead().start_at(3.0), "task": lm.task, "template": lm.template.text}
        bank = PromptBank.from_arrays([f"user-{number}" for number in range(8)], prompts, lm.spec, **known)
        bank.save_pretrained(f"{folder}-bank")
    make_interactions().to_csv(tmp_path / "rows.csv", index=False)
    command = ["train", "--target", folders[2], "--interactions", str(tmp_path / "rows.csv")]
    command += ["--bank", f"{folders[0]}-bank", "--bank", f"{folders[1]}-bank", "--out", str(tmp_path / "out")]
    assert main([*command, "--teacher", folders[0]]) == 2  # one for each bank
    assert main([*command, "--teacher", folders[0], "--teacher", folders[1]]) == 0
    adapter = PumaAdapter.from_pretrained(tmp_path / "out" / "adapter")
    assert [spec.hidden_size for spec in adapter.config.sources] == [32, 48]
