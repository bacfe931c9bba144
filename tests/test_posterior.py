"""Users' offsets as posterior means, against sklearn, a plain forward pass and the gradient of the posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import Ridge, ridge_regression

from puma_hub import ClickTask, OrdinalTask, PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments
from puma_hub.data import of_users
from puma_hub.errors import ConfigurationError
from puma_hub.tasks import RatingTask, Task
from puma_hub.training import posterior, variances
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.linearized_rows import LinearizedRows
from puma_hub.training.posterior import PosteriorSolver, in_parts, solve_user
from puma_hub.training.variances import Variances, best_variances
from tests.conftest import make_interactions

QUIET = PumaTrainingArguments(disable_tqdm=True, seed=3, per_device_train_batch_size=16)
PRIOR = Variances(offset=0.3, noise=0.8)


def linear_rows(rows: int, size: int, users: int = 1, seed: int = 0) -> LinearizedRows:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(users, size=rows)
    gradients = generator.normal(size=(rows, size))
    offsets = 0.5 * generator.normal(size=(users, size))
    lacking = (gradients * offsets[numbers]).sum(1) + 0.7 * generator.normal(size=rows)
    return LinearizedRows(gradients, lacking, numbers, np.ones(rows))


@pytest.mark.parametrize(("rows", "size"), [(5, 12), (30, 4)])
def test_an_offset_is_ridge_regression(rows: int, size: int) -> None:
    linear = linear_rows(rows, size)
    at = np.random.default_rng(1).normal(size=size)
    ridge = Ridge(alpha=PRIOR.noise / PRIOR.offset, fit_intercept=False)
    ridge.fit(linear.gradients, linear.lacking + linear.gradients @ at)
    np.testing.assert_allclose(solve_user(linear, at, PRIOR, PRIOR.noise), ridge.coef_, rtol=1e-6)


def test_the_variances_are_those_of_a_gaussian_process() -> None:
    linear = linear_rows(80, 3)
    kernel = ConstantKernel(0.2) * DotProduct(0.0, "fixed") + WhiteKernel(0.6)
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    process.fit(linear.gradients, linear.lacking)
    found = best_variances(linear, np.zeros(len(linear.users), bool))
    assert found.offset == pytest.approx(process.kernel_.k1.k1.constant_value, rel=1e-2)
    assert found.noise == pytest.approx(process.kernel_.k2.noise_level, rel=1e-2)


def test_the_variances_of_many_users_are_those_they_were_drawn_with() -> None:
    found = best_variances(linear_rows(20_000, 6, users=1500), np.zeros(20_000, bool))
    assert found.offset == pytest.approx(0.25, rel=0.05) and found.noise == pytest.approx(0.49, rel=0.05)


def test_the_ratio_is_the_one_that_predicts_users_last_rows_best() -> None:
    """Users whose last rows are of another offset than the others: by ridge regression of sklearn on a grid."""
    linear = linear_rows(6000, 4, users=300)
    generator = np.random.default_rng(5)
    latest = generator.random(6000) < 0.2
    other = 0.5 * generator.normal(size=(300, 4))
    changed = linear.lacking.copy()
    changed[latest] = 0.3 * changed[latest] + (linear.gradients * other[linear.users])[latest].sum(1)
    linear = replace(linear, lacking=changed)
    found = best_variances(linear, latest)
    ratios = np.geomspace(1e-3, 10, 60)
    errors = [np.empty((0, len(ratios)))]
    for user in range(300):
        early, late = (np.flatnonzero((linear.users == user) & part) for part in (~latest, latest))
        if len(early) and len(late):
            # A target for each ratio, as one call fits them all.
            targets = np.repeat(changed[early][:, None], len(ratios), 1)
            offsets = ridge_regression(linear.gradients[early], targets, 1 / ratios)
            errors.append(np.square(changed[late][:, None] - linear.gradients[late] @ offsets.T))
    best = ratios[np.concatenate(errors).mean(axis=0).argmin()]
    assert found.offset / found.noise == pytest.approx(best, rel=0.2)
    assert best < 0.5 * best_variances(linear, np.zeros(6000, bool)).offset / found.noise


def test_labels_that_the_base_predicts_exactly_leave_nothing_to_learn() -> None:
    with pytest.raises(ConfigurationError, match="nothing personal to learn"):
        best_variances(replace(linear_rows(4, 2), lacking=np.zeros(4)), np.zeros(4, bool))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_posterior_is_highest_at_the_offsets(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    """The gradient of squared errors over noise plus squared offsets over their variance is 0 there."""
    lm, rows = make_lm(family), make_interactions(3, 8)
    encoded = EncodedInteractions.build(lm, rows, {f"user-{n}": n for n in range(3)}, 1)
    bank = PromptTrainer(lm, rows, QUIET).train()
    base, scale = lm.word_prompt(1), lm.embedding_rms
    solver = PosteriorSolver(lm, base, bank.head, scale, 5)
    prior = Variances(0.02, 1.5)
    found = torch.from_numpy(solver.solve(encoded, prior, prior.noise, 3, steps=60)).requires_grad_(True)
    prompts = base + scale * found.view(3, 1, -1)
    predictions = bank.head(lm.logits(prompts[encoded.users], encoded.rows))
    loss = (predictions - encoded.labels).square().sum() / prior.noise + found.square().sum() / prior.offset
    (gradient,) = torch.autograd.grad(loss, found)
    assert gradient.abs().max() < 2e-2 * found.abs().max() * 2 / prior.offset


@pytest.mark.parametrize("task", [RatingTask(), OrdinalTask((1, 2, 3, 4, 5)), ClickTask()], ids=lambda task: task.name)
def test_solved_prompts_predict_the_training_labels_better_than_the_base(
    make_lm: Callable[..., PersonalizedLM], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variances, "_MOST", 1e4)  # a tiny random model hardly feels its prompt
    rows = make_interactions(10, 12)
    options = {}
    if task.name == "click":
        rows = rows.map(lambda row: {"label": float(row["label"] > 3)})
        options = {"template": "<item>: a click by<user>? "}
    lm = make_lm("llama", task=task, **options)
    trainer = PromptTrainer(lm, rows, QUIET)
    bank = trainer.train()
    encoded = EncodedInteractions.build(lm, rows, {user: n for n, user in enumerate(bank.user_ids)}, 1)
    own = torch.from_numpy(bank.prompts.copy())
    base = (own.mean(0)).expand_as(own)

    def error(prompts: torch.Tensor) -> float:
        with torch.no_grad():
            predictions = lm.task.predict(lm.logits(prompts[encoded.users], encoded.rows), bank.head)
        return float((predictions - encoded.labels).square().mean())

    assert error(own) < 0.998 * error(base)
    assert bank.provenance.details["variances"]["offset"] > 0
    assert trainer.report["flops"]["solving"] > 0 and trainer.report["seconds"]["solving"] > 0


def test_gradients_are_those_of_the_plain_model(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm("llama", task=ClickTask(), template="<item>: a click by<user>? "), make_interactions(2, 3)
    rows = rows.map(lambda row: {"label": float(row["label"] > 3)})
    encoded = EncodedInteractions.build(lm, rows, {"user-0": 0, "user-1": 1}, 1)
    solver = PosteriorSolver(lm, lm.word_prompt(1), None, lm.embedding_rms, 4)
    found = solver.linearized(encoded, np.zeros((len(rows), 32)))
    embed = lm.model.get_input_embeddings()
    for number in range(3):
        text = rows["item_text"][number]
        before = lm.tokenizer(text + ": a click by", return_tensors="pt").input_ids
        after = lm.tokenizer("? ", return_tensors="pt", add_special_tokens=False).input_ids
        prompt = lm.word_prompt(1)[None].clone().requires_grad_(True)
        embeds = torch.cat([embed(before), prompt, embed(after)], 1)
        p = lm.model(inputs_embeds=embeds).logits[0, -1, lm.answer_ids[0]].sigmoid()
        (gradient,) = torch.autograd.grad(p, prompt)
        deviation = (p * (1 - p)).sqrt()
        expected = (lm.embedding_rms * gradient.flatten() / deviation).detach().numpy()
        np.testing.assert_allclose(found.gradients[number], expected, rtol=1e-3, atol=1e-6)
        lacking = (rows["label"][number] - p) / deviation
        assert found.lacking[number] == pytest.approx(float(lacking.detach()), rel=1e-3)


def test_parts_hold_whole_users_and_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "ROWS_AT_ONCE", 10)
    users = torch.from_numpy(np.random.default_rng(0).integers(0, 9, 50))
    parts = list(in_parts(users, 1))
    assert sorted(np.concatenate([part for part, _ in parts])) == list(range(9)) and len(parts) > 3
    assert sorted(torch.cat([rows for _, rows in parts]).tolist()) == list(range(50))
    assert all(set(users[rows].tolist()) <= set(part.tolist()) for part, rows in parts)


def test_prompts_do_not_depend_on_who_else_is_solved_for(
    make_lm: Callable[..., PersonalizedLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, rows = make_lm("llama"), make_interactions(8, 6)
    together = PromptTrainer(lm, rows, QUIET).train()
    monkeypatch.setattr(posterior, "ROWS_AT_ONCE", 6)
    alone = PromptTrainer(lm, rows, QUIET).train()
    np.testing.assert_allclose(alone.prompts, together.prompts, atol=1e-4)


def test_a_run_that_was_killed_while_solving_goes_on(
    make_lm: Callable[..., PersonalizedLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posterior, "ROWS_AT_ONCE", 6)
    lm, rows = make_lm("llama"), make_interactions(8, 6)
    whole = PromptTrainer(lm, rows, QUIET).train()
    arguments = replace(QUIET, output_dir=str(tmp_path), checkpoint_seconds=0)
    calls = 0
    solve = PosteriorSolver.solve

    def killed(self: PosteriorSolver, *values: object, **named: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return solve(self, *values, **named)

    monkeypatch.setattr(PosteriorSolver, "solve", killed)
    with pytest.raises(KeyboardInterrupt):
        PromptTrainer(lm, rows, arguments).train()
    bank = PromptTrainer(lm, rows, arguments).train()
    assert calls == 9 and np.array_equal(bank.prompts, whole.prompts)


def test_a_run_is_extended_by_an_epoch_and_solved_anew(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    lm, rows = make_lm("llama"), make_interactions(8, 6)
    arguments = replace(QUIET, lr_scheduler_type="constant")
    PromptTrainer(lm, rows, replace(arguments, output_dir=str(tmp_path), num_train_epochs=1)).train()
    extended = PromptTrainer(lm, rows, replace(arguments, output_dir=str(tmp_path), num_train_epochs=2)).train()
    whole = PromptTrainer(lm, rows, replace(arguments, num_train_epochs=2)).train()
    assert np.array_equal(extended.prompts, whole.prompts)


def test_validation_rows_are_kept_out(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm("llama"), make_interactions(8, 10)
    trainer = PromptTrainer(lm, rows, replace(QUIET, validation_share=0.2))
    bank = trainer.train()
    last = rows.filter(lambda row: row["timestamp"] >= 8)
    prompts = torch.from_numpy(bank.prompts[bank.rows(last["user_id"][:])].copy())
    with torch.no_grad():
        predictions = bank.head(lm.logits(prompts, last)).numpy()
    expected = np.sqrt(np.mean(np.square(predictions - np.array(last["label"][:]))))
    assert trainer.evaluate()["eval_rmse"] == pytest.approx(float(expected), rel=1e-4)
    assert trainer.report["best_epoch"] >= 1


# Users who are added


def test_new_users_are_solved_for_around_the_banks_base(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm("llama"), make_interactions(40, 8)
    names = [f"user-{number}" for number in range(40)]
    bank = PromptTrainer(lm, of_users(rows, names[:35]), QUIET).train()
    trainer = PromptTrainer(lm, of_users(rows, names[35:]), QUIET, bank=bank)
    joined = trainer.train()
    assert joined.user_ids == [*bank.user_ids, *names[35:]] and trainer.report["losses"] == []
    assert np.array_equal(joined.prompts[:35], bank.prompts)
    encoded = EncodedInteractions.build(lm, of_users(rows, names[36:37]), {names[36]: 0}, 1)
    base = torch.from_numpy(bank.statistics.mean.copy())
    solver = PosteriorSolver(lm, base, bank.head, lm.embedding_rms, 64)
    known = bank.provenance.details["variances"]
    offsets = solver.solve(encoded, Variances(**known), known["noise"], 1)
    expected = base + lm.embedding_rms * torch.from_numpy(offsets).view(1, -1)
    np.testing.assert_allclose(joined[names[36]], expected, atol=1e-4)


def test_a_bank_without_variances_takes_those_of_the_new_rows(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm("llama"), make_interactions(40, 8)
    names = [f"user-{number}" for number in range(40)]
    bank = PromptTrainer(lm, of_users(rows, names[:35]), QUIET).train()
    given = PromptBank.from_arrays(bank.user_ids, bank.prompts, lm.spec, head=bank.head)
    joined = PromptTrainer(lm, of_users(rows, names[35:]), QUIET, bank=given).train()
    moved = joined.prompts[35:] - bank.statistics.mean
    assert np.isfinite(moved).all() and np.abs(moved).max() > 1e-5


def test_shared_prompts_are_trained_as_before(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm("llama"), make_interactions(8, 6)
    trainer = PromptTrainer(lm, rows, replace(QUIET, prompt_method="shared"))
    bank = trainer.train()
    assert "variances" not in bank.provenance.details and trainer.report["flops"]["solving"] == 0
