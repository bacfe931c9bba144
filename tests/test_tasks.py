"""Tasks by name: what is registered, what a task brings, and ordinal regression against independent computations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, log_loss, mean_absolute_error, mean_squared_error

from puma_hub import ClickTask, LikeTask, OrdinalTask, RatingTask, register_task
from puma_hub.adapter.facts import Evaluation
from puma_hub.directions import Metric, lower_is_better
from puma_hub.errors import ConfigurationError, InteractionsError, PumaHubError
from puma_hub.tasks import RatingHead, Task, as_task, default_task, registry, task_from_dict, task_kind
from puma_hub.tasks.probability import ProbabilityTask

TASKS = [RatingTask(), RatingTask((0.5, 1, 1.5), 0.25), ClickTask(), OrdinalTask(), OrdinalTask((0, 1, 3, 10))]
TASKS += [LikeTask(), LikeTask((0, 3, 10))]


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    monkeypatch.setattr("puma_hub.directions._LOWER_IS_BETTER", dict(_directions()))


def _directions() -> dict[str, bool]:
    from puma_hub import directions

    return directions._LOWER_IS_BETTER


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_what_a_task_brings(task: Task) -> None:
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(40, len(task.answers))).astype(np.float32))
    predictions = task.predict(logits, None).double().numpy()
    ordered = [0.0, 1.0] if isinstance(task, ProbabilityTask) else [float(value) for value in task.values]  # type: ignore[attr-defined]
    labels = generator.choice(ordered, size=40)
    task.check_labels(labels)
    found = task.scores(predictions, labels, [f"u{i % 4}" for i in range(40)])
    assert list(found) == [metric.name for metric in task.metrics] and None not in found.values()
    assert task.main_metric(found) is task.metrics[0] and task.undefined(found) == []
    assert all(lower_is_better(metric.name) == metric.lower_is_better for metric in task.metrics)
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))).to_dict() == task.to_dict()
    assert type(task).from_values(None) in TASKS and task_kind(task.name) is type(task)
    # What predictions say is found again by the link, and every label has a finite one.
    near = torch.from_numpy(generator.normal(0, 0.3, (40, len(task.answers))).astype(np.float32))
    assert torch.allclose(task.link(task.predict(near, None)), task.linear_predictor(near, None), atol=1e-4)
    assert torch.allclose(task.inverse_link(task.linear_predictor(near, None)), task.predict(near, None), atol=1e-6)
    assert task.link(torch.tensor(ordered)).isfinite().all()
    assert (task.link(torch.tensor(ordered)).diff() > 0).all()


def test_how_a_task_is_trained_is_not_what_it_is() -> None:
    assert RatingTask(mse_weight=0.1) == RatingTask() and hash(RatingTask(mse_weight=0.1)) == hash(RatingTask())
    assert RatingTask(mse_weight=0.1).to_dict() != RatingTask().to_dict()  # a run is not resumed with another
    assert RatingTask((1, 2)) != RatingTask() and OrdinalTask() != RatingTask()  # type: ignore[comparison-overlap]


def test_names_that_are_not_known() -> None:
    assert default_task() == RatingTask()
    for name in ("ranking", None, ["rating"]):
        with pytest.raises(ConfigurationError, match=r"unknown task.*click, like, ordinal, rating\. Import the module"):
            task_from_dict({"name": name})
    with pytest.raises(ConfigurationError, match="a Task or its dict"):
        as_task("rating")


@dataclass(frozen=True)
class Likes(ClickTask):
    name: ClassVar[str] = "likes"
    weight: float = field(default=1.0, compare=False)


def test_a_task_is_registered_once(clean_registry: None) -> None:
    assert register_task(Likes) is Likes
    assert task_from_dict({"name": "likes", "weight": 2.0, "later": 1}).to_dict() == {"name": "likes", "weight": 2.0}
    for kind in (Likes, type("Other", (ClickTask,), {"name": "rating"})):
        with pytest.raises(ConfigurationError):
            register_task(kind)
    with pytest.raises(ConfigurationError, match=r"'likes' is registered already, Likes"):
        register_task(Likes)


def _like(**changes: object) -> type[Task]:
    return dataclass(frozen=True)(type("Bad", (Likes,), {"name": "bad", **changes}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (RatingTask(), "is a subclass of puma_hub.tasks.Task"),
        (int, "is a subclass of puma_hub.tasks.Task"),
        (dataclass(frozen=True)(type("Bare", (Task,), {})), "lacks answers, .*loss, .*name, title, template, metrics"),
        (type("Plain", (Likes,), {"name": "plain"}), "must be a frozen dataclass"),
        (_like(name="No spaces"), "made of a-z"),
        (_like(name=None), "made of a-z"),
        (_like(metrics=()), "one or more Metric"),
        (_like(metrics=("auc",)), "one or more Metric"),
        (
            _like(metrics=(Metric("rmse", lower_is_better=False),)),
            "'rmse' is known already, and better when it is lower",
        ),
        (_like(template="no slot at all"), "<user>"),
    ],
)
def test_what_is_no_task(clean_registry: None, kind: type[Task], message: str) -> None:
    before = list(registry._TASKS)
    with pytest.raises(PumaHubError, match=message):
        register_task(kind)
    assert list(registry._TASKS) == before


def test_a_metric_that_is_not_defined() -> None:
    task = ClickTask()
    found = task.scores(np.array([0.1, 0.9]), np.array([0.0, 1.0]), ["a", "b"])
    assert found == {"user_auc": None, "auc": 1.0} and task.main_metric(found).name == "auc"
    assert task.undefined(found) == ["user_auc is not defined: no user has rows of both classes"]
    assert task.counts(np.array([0.0, 1.0, 1.0]), ["a", "a", "b"]) == {"users_with_both_classes": 1}
    same = OrdinalTask().scores(np.array([3.2, 2.9]), np.array([3.0, 3.0]), ["a", "b"])
    assert same["quadratic_kappa"] is None and OrdinalTask().main_metric(same).name == "mae"
    assert OrdinalTask().undefined(same) == [
        "quadratic_kappa is not defined: all labels and predictions are of one value"
    ]


def test_the_direction_of_an_evaluation_is_its_metrics() -> None:
    """Of a metric that is better when higher, less is a loss; one that nobody knows compares nothing."""
    figures = {"source": 0.8, "source_mean": 0.6, "migrated": 0.72, "migrated_mean": 0.6}
    kappa = Evaluation("d", "s", 1, 1, {name: {"quadratic_kappa": value} for name, value in figures.items()})
    assert kappa.loss == pytest.approx(0.1) and kappa.retention == pytest.approx(0.6)
    both = Evaluation("d", "s", 1, 1, {"source": {"mae": 1.0, "rmse": 2.0}, "migrated": {"mae": 1.5, "rmse": 2.0}})
    assert both.loss == pytest.approx(0.5)  # of the first
    unknown = Evaluation("d", "s", 1, 1, {name: {"strange": value} for name, value in figures.items()})
    assert unknown.loss is None and unknown.retention is None


def _by_hand(logits: np.ndarray, thresholds: np.ndarray) -> float:
    """Mean over thresholds of sklearn's log loss of reaching them; ``thresholds (N, K - 1)`` are 0 and 1."""
    logits = logits.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = []
    for number in range(1, logits.shape[1]):
        reached = probabilities[:, number:].sum(1)
        losses.append(log_loss(thresholds[:, number - 1], np.stack([1 - reached, reached], 1), labels=[0, 1]))
    return float(np.mean(losses))


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4, 5), (-1, 0.5, 4, 40)])
def test_the_ordinal_loss_against_sklearn(values: tuple[float, ...]) -> None:
    generator = np.random.default_rng(1)
    task, logits = OrdinalTask(values), generator.normal(0, 2, (50, len(values))).astype(np.float32)
    classes = generator.integers(0, len(values), 50)
    labels = torch.tensor([float(values[number]) for number in classes])
    thresholds = (classes[:, None] >= np.arange(1, len(values))).astype(int)
    loss = task.loss(torch.from_numpy(logits), labels, None)
    assert float(loss) == pytest.approx(_by_hand(logits, thresholds), rel=1e-5)
    # A teacher that is certain of the labels says the same; its predictions are not used.
    certain = torch.nn.functional.one_hot(torch.from_numpy(classes), len(values)).float()
    assert torch.equal(task.loss(torch.from_numpy(logits), torch.zeros(50), None, certain), loss)


def test_a_teachers_probabilities_are_soft_thresholds() -> None:
    """A mixed teacher costs the mix of two certain ones, and the loss is least where it is itself."""
    task = OrdinalTask()
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    first, last = (torch.tensor([float(value)] * 30) for value in (2, 5))
    mixed = torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.7]] * 30)
    expected = 0.3 * task.loss(logits, first, None) + 0.7 * task.loss(logits, last, None)
    assert task.loss(logits, first, None, mixed).item() == pytest.approx(expected.item(), rel=1e-5)
    own = logits.clone().requires_grad_(True)
    task.loss(own, first, None, logits.softmax(-1)).backward()
    assert own.grad is not None and own.grad.abs().max() < 1e-7
    wrong = logits.clone().requires_grad_(True)
    task.loss(wrong, first, None).backward()
    assert wrong.grad is not None and wrong.grad.abs().max() > 1e-3


def test_far_answers_cost_more_and_nothing_overflows() -> None:
    task = OrdinalTask()
    sure = 30 * torch.eye(5)  # the i-th row is sure of the i-th answer
    costs = [float(task.loss(sure[number : number + 1], torch.tensor([1.0]), None)) for number in range(5)]
    assert costs == sorted(costs) and costs[0] < 1e-6 and costs[4] == pytest.approx(30.0, rel=0.1)
    huge = (1e4 * torch.eye(5)).requires_grad_(True)
    task.loss(huge, torch.tensor([5.0, 4, 3, 2, 1]), None).backward()
    assert huge.grad is not None and huge.grad.isfinite().all()
    assert task.linear_predictor(huge, None).isfinite().all()


def test_ordinal_predictions_are_expected_values() -> None:
    values = (0.5, 1, 2, 8)
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    expected = logits.double().softmax(-1) @ torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(OrdinalTask(values).predict(logits, None).double(), expected, atol=1e-5)
    odds = ((expected - 0.5) / 7.5).logit()
    assert torch.allclose(OrdinalTask(values).linear_predictor(logits, None).double(), odds, atol=1e-5)


def test_ordinal_scores_against_sklearn() -> None:
    generator = np.random.default_rng(4)
    values = (1, 2, 4, 8)
    labels = generator.choice(np.array(values, dtype=float), 80)
    predictions = (labels + generator.normal(0, 1.5, 80)).clip(1, 8)
    classes = [np.abs(array[:, None] - np.array(values)).argmin(1) for array in (labels, predictions)]
    assert OrdinalTask(values).scores(predictions, labels, ["u"] * 80) == {
        "mae": pytest.approx(mean_absolute_error(labels, predictions)),
        "rmse": pytest.approx(mean_squared_error(labels, predictions) ** 0.5),
        "quadratic_kappa": pytest.approx(cohen_kappa_score(*classes, weights="quadratic")),
    }


def test_ordinal_labels_are_values() -> None:
    with pytest.raises(InteractionsError, match=r"outside the task's values \(1, 2, 5\).*OrdinalTask\(values\)"):
        OrdinalTask((1, 2, 5)).check_labels(np.array([1, 3]))
    with pytest.raises(ConfigurationError, match="rising"):
        OrdinalTask((2, 1))


@pytest.mark.parametrize("task", [ClickTask(), LikeTask((1, 2, 3))], ids=repr)
def test_the_loss_of_probabilities_against_sklearn(task: ProbabilityTask) -> None:
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(50, len(task.answers))).astype(np.float32))
    labels = torch.from_numpy(generator.integers(2, size=50).astype(np.float32))
    torch.manual_seed(0)
    head = RatingHead(3) if task.has_head else None
    with torch.no_grad():
        odds = logits[:, 0] if head is None else head(logits)
        expected = log_loss(labels.numpy(), 1 / (1 + np.exp(-odds.double().numpy())))
        assert float(task.loss(logits, labels, head)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InteractionsError, match="with_likes"):
        task.check_labels([0.0, 4.0])


def test_likes_without_a_head_are_the_expected_ratings_place_on_the_scale() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    expected = logits.softmax(-1) @ torch.tensor([1.0, 2.0, 5.0])
    assert torch.allclose(LikeTask((1, 2, 5)).predict(logits, None), (expected - 1) / 4, atol=1e-6)
