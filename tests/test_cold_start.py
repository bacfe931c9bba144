"""First prompts for users without any: the population's, that of users who are alike, and the posterior of few rows."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from puma_hub import PersonalizedLM, PromptBank, cold_start
from puma_hub.errors import BankError, ConfigurationError, InteractionsError, MismatchError
from puma_hub.tasks import RatingHead
from tests.conftest import make_interactions
from tests.trainings import make_trained, make_training

NEW = ["new-1", "new-2", "new-3"]


@pytest.fixture
def target(make_lm: Callable[..., PersonalizedLM]) -> tuple[PersonalizedLM, PromptBank]:
    """A scorer and a bank of 50 users of its LLM."""
    lm = make_lm("gemma3")
    generator = np.random.default_rng(0)
    own = generator.normal(size=(50, 3)) @ generator.normal(size=(3, 32)) * 0.2
    prompts = lm.embedding_rms * (generator.normal(size=32) + own + 0.05 * generator.normal(size=own.shape))
    torch.manual_seed(0)
    bank = PromptBank.from_arrays(
        [f"user-{n}" for n in range(50)],
        prompts[:, None].astype(np.float32),
        lm.spec,
        head=RatingHead().start_at(3.0),
        template=lm.template.text,
        task=lm.task,
        details={"variances": {"offset": 0.1, "noise": 0.7}},
    )
    return lm, bank


def adapter_to(lm: PersonalizedLM, source: PromptBank | None = None) -> object:
    adapter = make_trained(source or make_training(1))
    adapter.config.target = lm.spec
    return adapter


def rows_of(*users: str) -> datasets.Dataset:
    rows = make_interactions(len(users), 4)
    names = dict(zip(sorted(set(rows["user_id"][:])), users))
    return rows.map(lambda row: {"user_id": names[row["user_id"]]})


def test_users_without_rows_get_the_mean_prompt_of_the_migrated_bank() -> None:
    source = make_training(1)
    adapter = make_trained(source)
    found = cold_start(adapter, source, NEW)
    migrated = adapter.migrate(source)
    assert found.user_ids == NEW and found.model == migrated.model
    for user in NEW:
        np.testing.assert_allclose(found[user], migrated.prompts.mean(0), atol=1e-5)
    assert found.provenance.made_by == "cold start" and found.provenance.details["users_without_rows"] == 3
    assert [step["made_by"] for step in found.provenance.history][-1] == "migrated"


def test_users_with_attributes_get_the_mean_of_the_nearest_users() -> None:
    source = make_training(1)
    age, city = np.arange(40) % 7 * 10.0, np.where(np.arange(40) < 20, "Rome", "Oslo")
    table = source.dataset.add_column("age", age).add_column("city", city.tolist())
    adapter = make_trained(source)
    bank = PromptBank(table, source.provenance)
    attributes = datasets.Dataset.from_dict(
        {"user_id": NEW, "city": ["Oslo", "Rome", "Oslo"], "age": [0.0, 60.0, 30.0]}
    )
    found = cold_start(adapter, bank, NEW, attributes=attributes, neighbours=2)
    migrated = adapter.migrate(source).prompts[:, 0]
    deviation = age.std()
    for user, place, years in zip(NEW, attributes["city"][:], attributes["age"][:]):
        distance = np.hypot((age - years) / deviation, np.where(city == place, 0, np.sqrt(2)))
        nearest = np.sort(distance)[1]
        near = np.flatnonzero(distance <= nearest + 1e-9)
        assert len(near) >= 2
        if len(near) == 2:
            np.testing.assert_allclose(found[user][0], migrated[near].mean(0), atol=1e-4)


@pytest.mark.parametrize("steps", [{"steps": 40}, {"steps": 0, "gradient_steps": 120}])
def test_users_with_rows_are_where_the_posterior_is_highest(
    target: tuple[PersonalizedLM, PromptBank], steps: dict[str, int]
) -> None:
    """With many steps, against scipy's minimum of squared errors over noise plus the prior's quadratic form."""
    lm, bank = target
    rows = rows_of("new-1")
    found = cold_start(adapter_to(lm), bank, ["new-1"], rows, lm=lm, **steps)
    flat = bank.prompts[:, 0].astype(np.float64)
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    precision = (vectors / np.maximum(values, 1e-12)) @ vectors.T
    labels = torch.tensor(rows["label"][:], dtype=torch.float32)

    def loss(prompt: np.ndarray) -> tuple[float, np.ndarray]:
        own = torch.tensor(prompt, dtype=torch.float32, requires_grad=True)
        predicted = bank.head(lm.logits(own.expand(len(rows), 1, -1), rows))
        (gradient,) = torch.autograd.grad((predicted - labels).square().sum() / 0.7, own)
        away = prompt - mean
        value = float((predicted - labels).square().sum().detach()) / 0.7 + away @ precision @ away
        return value, gradient.double().numpy() + 2 * precision @ away

    best = minimize(loss, mean, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    reached = loss(mean)[0] - loss(found["new-1"][0].astype(np.float64))[0]
    assert reached >= 0.8 * (loss(mean)[0] - best.fun) > 0


def test_only_users_with_rows_move(target: tuple[PersonalizedLM, PromptBank]) -> None:
    lm, bank = target
    found = cold_start(adapter_to(lm), bank, NEW, rows_of("new-2"), lm=lm)
    mean = bank.prompts.mean(0)
    np.testing.assert_allclose(found["new-1"], mean, atol=1e-5)
    assert np.abs(found["new-2"] - mean).max() > 1e-3
    assert found.provenance.details["users_with_rows"] == 1 and found.head is bank.head
    alone = cold_start(adapter_to(lm), bank, ["new-2"], rows_of("new-2"), lm=lm)
    np.testing.assert_allclose(alone["new-2"], found["new-2"], atol=1e-4)


def test_what_does_not_go_together_is_refused(target: tuple[PersonalizedLM, PromptBank]) -> None:
    lm, bank = target
    adapter = adapter_to(lm)
    with pytest.raises(BankError, match="1 of 2 users are in the bank already"):
        cold_start(adapter, bank, ["user-1", "new-1"])
    with pytest.raises(BankError, match="needs 30"):
        cold_start(adapter, bank.select(bank.user_ids[:8]), NEW)
    with pytest.raises(ConfigurationError, match="give its scorer as lm="):
        cold_start(adapter, bank, NEW, rows_of(*NEW))
    with pytest.raises(InteractionsError, match="belongs to one of the 3 users"):
        cold_start(adapter, bank, NEW, rows_of("stranger"), lm=lm)
    with pytest.raises(InteractionsError, match="attributes need user_id and columns of the bank"):
        cold_start(adapter, bank, NEW, attributes=datasets.Dataset.from_dict({"user_id": NEW, "age": [1, 2, 3]}))


def test_a_scorer_of_another_llm_is_refused(
    target: tuple[PersonalizedLM, PromptBank], make_lm: Callable[..., PersonalizedLM]
) -> None:
    lm, bank = target
    with pytest.raises(MismatchError):
        cold_start(adapter_to(lm), bank, NEW, rows_of(*NEW), lm=make_lm("gemma3", 1))
