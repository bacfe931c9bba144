"""The start of an adapter: what is solved for, and where the trainer uses it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from puma_hub import AdapterTrainer, ClickTask, OrdinalTask, PersonalizedLM, PromptTrainer, PumaTrainingArguments
from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.bank import PromptBank
from puma_hub.data import of_users
from puma_hub.errors import ConfigurationError
from puma_hub.training import gauss_newton, with_source_predictions
from puma_hub.training.encoded_rows import EncodedInteractions
from tests.conftest import make_bank

QUIET = PumaTrainingArguments(
    num_train_epochs=1, per_device_train_batch_size=16, disable_tqdm=True, seed=3, validation_share=0.0
)
Teach = tuple[PersonalizedLM, PromptBank, datasets.Dataset]


@pytest.fixture
def taught(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> Teach:
    """The target, the source's bank, and rows with the source's predictions, spread as a trained model's would be."""
    source = make_lm("llama")
    bank = PromptTrainer(source, interactions, replace(QUIET, num_train_epochs=3)).train()
    rows = with_source_predictions(source, bank, interactions, noise=0)
    own = np.array(rows["source_prediction"][:])
    spread = 3.5 + 0.5 * (own - own.mean()) / own.std()
    rows = rows.remove_columns("source_prediction").add_column("source_prediction", spread)
    return make_lm("gemma3", seed=1), bank, rows


def _fresh(lm: PersonalizedLM, bank: PromptBank, length: int, architecture: str = "linear") -> PumaAdapter:
    torch.manual_seed(0)
    adapter = PumaAdapter(
        PumaConfig([bank.model], lm.spec, prompt_length=length, task=lm.task, architecture=architecture)
    )
    adapter.network.start_linear()
    adapter.standardize(torch.from_numpy(bank.statistics.mean.copy()), [bank.statistics.spread], lm.embedding_rms)
    with torch.no_grad():
        adapter.base.copy_(lm.word_prompt(length) / lm.embedding_rms)
    return adapter.eval()


class FirstStep(NamedTuple):
    """An adapter before and after one Gauss-Newton step, and what the step was made of."""

    lm: PersonalizedLM
    before: PumaAdapter
    after: PumaAdapter
    prompts: torch.Tensor
    rows: EncodedInteractions

    def weights(self, adapter: PumaAdapter) -> list[torch.Tensor]:
        """Base, linear map and the head's weights, if there is a head."""
        head = list(adapter.head.parameters()) if adapter.head is not None else []
        return [adapter.base, adapter.network.residual.weight, *head]

    def prior(self) -> list[float]:
        """The prior's standard deviation of each weight, from the inputs standardised by hand."""
        offsets = self.prompts - self.prompts.mean(0)
        inputs = offsets / offsets.square().mean().sqrt()
        scale = gauss_newton.MAP_SCALE / np.mean([np.linalg.norm(one) for one in inputs.numpy()])
        return [gauss_newton.BASE_SCALE, scale, *[gauss_newton.HEAD_SCALE] * (len(self.weights(self.before)) - 2)]

    def require_ridge(self, targets: np.ndarray, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Compare with sklearn on the explicit gradients of all weights, which autograd takes one row at a time.

        ``predict`` gives the linear predictor of one row from its logits ``(1, answers)``.
        """
        weights, prior = self.weights(self.before), self.prior()
        features, errors = [], []
        for number, target in enumerate(targets):
            prompt = self.before(self.prompts[self.rows.users[[number]]]).target_prompts
            prediction = predict(self.lm.logits(prompt, self.rows.rows.take([number])))
            gradients = torch.autograd.grad(prediction, weights)
            features.append(np.concatenate([s * g.numpy().ravel() for s, g in zip(prior, gradients)]))
            errors.append(float(target - prediction.detach()))
        noise = gauss_newton.NOISE * max(float(np.std(targets)), float(np.mean(np.square(errors))) ** 0.5)
        ridge = Ridge(alpha=noise**2, fit_intercept=False, solver="svd").fit(np.array(features, np.float64), errors)
        parts = np.split(ridge.coef_, np.cumsum([weight.numel() for weight in weights])[:-1])
        for before, after, part, s in zip(weights, self.weights(self.after), parts, prior):
            expected = s * part.reshape(before.shape)
            tolerance = 2e-3 * np.abs(expected).max() + 1e-6
            np.testing.assert_allclose((after - before).detach().numpy(), expected, atol=tolerance)


def _first_step(lm: PersonalizedLM, interactions: datasets.Dataset, length: int) -> FirstStep:
    bank = make_bank(length=length)
    row_of = {user: number for number, user in enumerate(bank.user_ids)}
    known = [number for number, user in enumerate(interactions["user_id"]) if user in row_of][:40]
    rows = EncodedInteractions.build(lm, interactions.select(known), row_of, length)
    before = _fresh(lm, bank, length)
    after, prompts = copy.deepcopy(before), torch.from_numpy(bank.prompts.copy())
    gauss_newton.start_by_gauss_newton(after, lm, prompts, rows, rows.labels, batch_size=16)
    return FirstStep(lm, before, after, prompts, rows)


@pytest.mark.parametrize("length", [1, 3])
def test_a_step_for_ratings_is_ridge_regression(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, length: int
) -> None:
    step = _first_step(make_lm("llama", seed=1), interactions, length)
    step.require_ridge(step.rows.labels.numpy(), lambda logits: step.lm.task.predict(logits, step.before.head)[0])


@pytest.mark.parametrize("length", [1, 3])
def test_a_step_for_clicks_is_ridge_regression_on_log_odds(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, length: int
) -> None:
    clicks = [float(label > 3) for label in interactions["label"]]
    rows = interactions.remove_columns("label").add_column("label", clicks)
    step = _first_step(make_lm("llama", seed=1, task=ClickTask(), template="<item>, for <user>:"), rows, length)
    log_odds = (2 * step.rows.labels.numpy() - 1) * np.log(999)  # of the probabilities 0.001 and 0.999
    step.require_ridge(log_odds, lambda logits: logits[0, 0])


@pytest.mark.parametrize("length", [1, 3])
def test_a_step_for_ordinal_ratings_is_ridge_regression_on_log_odds(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, length: int
) -> None:
    """The log-odds of where a rating lies between 1 and 5, at least a quarter of a star away from either end."""
    step = _first_step(make_lm("llama", seed=1, task=OrdinalTask()), interactions, length)
    share = (np.clip(step.rows.labels.numpy(), 1.25, 4.75) - 1) / 4

    def predict(logits: torch.Tensor) -> torch.Tensor:
        mean = (logits[0].softmax(-1) @ torch.arange(1.0, 6.0) - 1) / 4
        return (mean / (1 - mean)).log()

    step.require_ridge(np.log(share / (1 - share)), predict)


def test_what_a_change_adds_by_hand_and_that_it_is_found() -> None:
    torch.manual_seed(0)
    rows, length, size_in, size_out = 30, 2, 5, 4
    gradients, inputs = torch.randn(rows, length, size_out), torch.randn(rows, length, size_in)
    head = torch.randn(rows, 3)
    change = gauss_newton.Change(torch.randn(length, size_out), torch.randn(size_out, size_in), torch.randn(3))
    linear = gauss_newton.LinearRows(torch.zeros(rows), gradients, head, inputs)
    exact = replace(linear, targets=change.of_predictions(linear))
    found = gauss_newton.solve(exact, torch.full((rows,), 1e-8), 1.0)
    torch.testing.assert_close(found.of_predictions(exact), exact.targets, atol=1e-3, rtol=1e-3)
    by_hand = [
        float((gradients[i] * (change.base + inputs[i] @ change.map.T)).sum() + head[i] @ change.head)
        for i in range(rows)
    ]
    torch.testing.assert_close(exact.targets, torch.tensor(by_hand), atol=1e-4, rtol=1e-4)


def test_the_start_is_near_the_teacher(taught: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps, on a real if tiny model: the predictions come nearer than those of a start at zero."""
    monkeypatch.setattr(gauss_newton, "ROWS_A_STEP", 24)
    lm, bank, rows = taught
    encoded = EncodedInteractions.build(lm, rows, {user: n for n, user in enumerate(bank.user_ids)}, 1)
    targets = torch.tensor(rows["source_prediction"][:]).float()
    source = torch.from_numpy(bank.prompts.copy())
    adapter = _fresh(lm, bank, 1, "seed")
    assert bank.head is not None and adapter.head is not None
    adapter.head.load_state_dict(bank.head.state_dict())

    def error() -> float:
        with torch.no_grad():
            prompts = adapter(source[encoded.users]).target_prompts
            return float((lm.task.predict(lm.logits(prompts, encoded.rows), adapter.head) - targets).square().mean())

    before, told = error(), []
    gauss_newton.start_by_gauss_newton(
        adapter, lm, source, encoded, targets, 256, lambda done, of: told.append((done, of))
    )
    assert error() < 0.5 * before
    assert told == [(24, 96), (48, 96), (72, 96), (96, 96)]


def test_clicks_are_solved_for_from_where_all_are_certain(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an LLM gives "Yes" a high logit whatever comes, probabilities are 1 and have no slope; log-odds have."""
    lm = make_lm("gemma3", task=ClickTask(), template="<item> for <user>:")
    logits = lm.logits
    monkeypatch.setattr(lm, "logits", lambda prompts, rows: logits(prompts, rows) + 20.0)
    monkeypatch.setattr(gauss_newton, "ROWS_A_STEP", 8)
    bank = make_bank()
    rows = of_users(interactions, bank.user_ids)
    clicks = rows.remove_columns("label").add_column("label", [0.0] * len(rows))
    encoded = EncodedInteractions.build(lm, clicks, {user: n for n, user in enumerate(bank.user_ids)}, 1)
    source = torch.from_numpy(bank.prompts.copy())
    adapter = _fresh(lm, bank, 1)

    def log_odds() -> torch.Tensor:
        with torch.no_grad():
            return lm.logits(adapter(source[encoded.users]).target_prompts, encoded.rows)[:, 0]

    before, targets = log_odds(), torch.where(encoded.users < 4, 0.4, 0.6)
    assert before.sigmoid().min() == 1.0
    gauss_newton.start_by_gauss_newton(adapter, lm, source, encoded, targets, 256)
    assert (log_odds() < before - 0.5).all()  # this model's prompts cannot do much more


def test_batches_change_nothing_but_rounding(taught: Teach) -> None:
    lm, bank, rows = taught
    one, many = (
        AdapterTrainer(lm, bank, rows, replace(QUIET, gradient_batch_size=size)).train().state_dict()
        for size in (256, 7)
    )
    for name in one:
        torch.testing.assert_close(one[name], many[name], atol=1e-3, rtol=1e-3)


def test_the_trainer_starts_and_says_so(taught: Teach) -> None:
    lm, bank, rows = taught
    trainer = AdapterTrainer(lm, bank, rows, replace(QUIET, start_rows=40))
    trainer.train()
    report = trainer.report
    assert report["start_rows"] == 40 and report["samples_until_best_epoch"] == 40 + 96
    assert report["seconds"]["start"] > 0
    assert report["seconds"]["until_best_epoch"] == pytest.approx(report["seconds"]["total"])
    without = AdapterTrainer(lm, bank, rows, replace(QUIET, start_rows=0))
    without.train()
    assert without.report["start_rows"] == 0 and without.report["seconds"]["start"] == 0
    extra = report["flops"]["until_best_epoch"] - without.report["flops"]["until_best_epoch"]
    assert extra == pytest.approx(report["flops"]["start"]) and extra > 0
    assert report["losses"][0] < without.report["losses"][0]
    assert (
        AdapterTrainer(lm, bank, rows.remove_columns(["source_prediction", "source_probabilities"])).args.start_rows
        == 0
    )


def test_without_an_epoch_the_adapter_is_what_was_solved_for(taught: Teach) -> None:
    lm, bank, rows = taught
    assert AdapterTrainer(lm, bank, rows, PumaTrainingArguments()).args.num_train_epochs == 0
    trainer = AdapterTrainer(lm, bank, rows, replace(QUIET, num_train_epochs=None, start_rows=50))
    begun = _fresh(lm, bank, 1, "seed")
    assert bank.head is not None and begun.head is not None
    begun.head.load_state_dict(bank.head.state_dict())
    some, source = trainer._begun_on, torch.from_numpy(bank.prompts.copy())
    assert some.predictions is not None and len(set(some.users.tolist())) > 1
    gauss_newton.start_by_gauss_newton(begun, lm, source, some, some.predictions, 256)
    solved = trainer.train()
    assert torch.equal(solved.base, begun.base) and torch.equal(solved(source)[0], begun(source)[0])
    report = trainer.report
    assert (report["best_epoch"], report["epochs"], report["samples_until_best_epoch"]) == (0, 0, 50)
    until_best = report["flops"]["until_best_epoch"]
    assert (
        until_best
        == report["flops"]["total"]
        == sum(report["flops"][part] for part in ("start", "sensitivity", "prefix_cache"))
    )
    assert report["seconds"]["training"] == 0 and report["seconds"]["start"] > 0


def test_epochs_that_make_it_worse_are_not_kept(taught: Teach) -> None:
    lm, bank, rows = taught
    near = [float(round(prediction)) for prediction in rows["source_prediction"][:]]
    rows = rows.remove_columns("label").add_column("label", near)
    args = replace(QUIET, validation_share=0.25, num_train_epochs=2, head_learning_rate=10.0)
    worse = AdapterTrainer(lm, bank, rows, args)
    kept = worse.train()
    assert worse.report["best_epoch"] == 0 and len(worse.report["validation_losses"]) == 2
    alone = AdapterTrainer(lm, bank, rows, replace(args, num_train_epochs=0)).train()
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in kept.state_dict().items())


def test_any_schedule_goes_with_no_epoch(taught: Teach) -> None:
    lm, bank, rows = taught
    settings = replace(QUIET, num_train_epochs=0, lr_scheduler_type="polynomial")
    assert AdapterTrainer(lm, bank, rows, settings).train().base.isfinite().all()


def test_an_adapter_without_a_head(taught: Teach) -> None:
    lm, bank, rows = taught
    adapter = AdapterTrainer(lm, bank, rows, QUIET, config=PumaConfig(rating_head=False)).train()
    assert adapter.head is None and not adapter.config.rating_head and adapter.migrate(bank).head is None


def test_nothing_to_train_is_an_error(taught: Teach) -> None:
    lm, bank, rows = taught
    labels = rows.remove_columns(["source_prediction", "source_probabilities"])
    none = replace(QUIET, num_train_epochs=0)
    trained = AdapterTrainer(lm, bank, rows, none).train()
    for data, init in ((labels, None), (rows, trained)):
        with pytest.raises(ConfigurationError, match="trains nothing"):
            AdapterTrainer(lm, bank, data, none, init=init)
    assert AdapterTrainer(lm, bank, rows, PumaTrainingArguments(), init=trained).args.num_train_epochs == 4


def test_a_trained_adapter_has_its_start_and_other_networks_have_none(taught: Teach) -> None:
    lm, bank, rows = taught
    trained = AdapterTrainer(lm, bank, rows, QUIET).train()
    again = AdapterTrainer(lm, bank, rows, QUIET, init=trained)
    again.train()
    assert again.report["start_rows"] == 0
    paper = AdapterTrainer(lm, bank, rows, QUIET, config=PumaConfig(architecture="paper", hidden_size=16))
    assert paper.args.start_rows == 0 and paper.args.base_learning_rate == 0.2
    with pytest.raises(ConfigurationError, match="linear branch"):
        AdapterTrainer(lm, bank, rows, replace(QUIET, start_rows=9), config=PumaConfig(architecture="paper"))
    for wrong in (-1, 2.5, True):
        with pytest.raises(ConfigurationError, match="start_rows"):
            replace(QUIET, start_rows=wrong)


def test_killed_after_the_start_it_is_not_solved_for_again(
    taught: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, bank, rows = taught
    whole = AdapterTrainer(lm, bank, rows, QUIET).train().state_dict()
    args = replace(QUIET, output_dir=str(tmp_path))

    class Killed(Exception):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("puma_hub.training.adapter_module.AdapterModule.forward", die)
        with pytest.raises(Killed):
            AdapterTrainer(lm, bank, rows, args).train()
    monkeypatch.setattr("puma_hub.training.adapter_trainer.start_by_gauss_newton", die)
    resumed = AdapterTrainer(lm, bank, rows, args).train().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
