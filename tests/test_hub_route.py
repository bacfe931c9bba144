"""Routes over published adapters, and chains that run them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from puma_hub import ModelSpec, PromptBank, PumaAdapter, chain, find_route
from puma_hub.adapter.facts import AdapterFacts, Evaluation
from puma_hub.adapter.publish import write_card
from puma_hub.errors import ConfigurationError, HubNotFoundError, HubUnavailableError, MismatchError
from puma_hub.registry.published import PublishedAdapter
from puma_hub.registry.route import UNREPORTED_LOSS, Route, cheapest, step_loss
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter

SIZES = {"a": 32, "b": 24, "c": 16, "d": 8}
SPECS = {name: ModelSpec(f"org/{name}", size) for name, size in SIZES.items()}


def evaluation(loss: float, dataset: str = "data", reference: str = "retrained") -> Evaluation:
    return Evaluation(dataset, "validation", 10, 2, {"migrated": {"rmse": 1 + loss}, reference: {"rmse": 1.0}})


def step(source: str, target: str, loss: float | None = 0.05, **options: object) -> PublishedAdapter:
    fields = {
        "repo_id": f"user/{source}-{target}-{loss}",
        "revision": "0" * 40,
        "sources": (SPECS[source],),
        "target": SPECS[target],
        "prompt_length": 1,
        "task": "rating",
        "evaluations": () if loss is None else (evaluation(loss),),
    }
    return PublishedAdapter(**{**fields, **options})  # type: ignore[arg-type]


def way(route: Route | None) -> str:
    return "" if route is None else route.adapters[0].source_ids[0][-1] + "".join(a.target.model_id[-1] for a in route)


def test_loss_of_an_adapter() -> None:
    metrics = {"migrated": {"rmse": 1.1}, "source": {"rmse": 1.0}, "retrained": {"rmse": 1.05}}
    assert Evaluation("d", "s", 1, 1, metrics).loss == pytest.approx(1.1 / 1.05 - 1)
    assert Evaluation("d", "s", 1, 1, {name: metrics[name] for name in ("migrated", "source")}).loss == pytest.approx(
        0.1
    )
    assert Evaluation("d", "s", 1, 1, {"migrated": {"rmse": 0.9}, "source": {"rmse": 1.0}}).loss == 0.0
    assert Evaluation("d", "s", 1, 1, {"migrated": {"rmse": 0.9}, "user_mean": {"rmse": 1.0}}).loss is None
    clicks = {"migrated": {"user_auc": 0.6, "auc": 0.1}, "retrained": {"user_auc": 0.8, "auc": 0.9}}
    assert Evaluation("d", "s", 1, 1, clicks).loss == pytest.approx(0.25)
    several = step(
        "a", "b", evaluations=(evaluation(0.02, "x"), evaluation(0.07, "y", "source"), evaluation(0.01, "z"))
    )
    assert several.loss == pytest.approx(0.07)  # of several datasets the worst
    assert step_loss(step("a", "b", None)) == UNREPORTED_LOSS == 0.10


def test_the_cheapest_way_is_taken() -> None:
    direct, first, second = step("a", "c", 0.3), step("a", "b", 0.1), step("b", "c", 0.1)
    assert way(cheapest([direct, first, second], SPECS["a"], SPECS["c"])) == "abc"
    assert way(cheapest([step("a", "c", 0.2), first, second], SPECS["a"], SPECS["c"])) == "ac"  # 0.21 by the chain
    route = cheapest([first, second], SPECS["a"], SPECS["c"])
    assert route is not None and route.loss == pytest.approx(0.21) and route.is_chain
    assert "a chain of 2 adapters" in str(route) and "org/a -> org/b -> org/c" in str(route) and "21.0%" in str(route)
    assert way(cheapest([step("a", "c", None), step("a", "b", 0.01), step("b", "c", 0.01)], *_ends())) == "abc"
    free = [step("a", "c", 0.0), step("a", "b", 0.0), step("b", "c", 0.0)]
    assert way(cheapest(free, SPECS["a"], SPECS["c"])) == "ac"  # of equal ones the shortest
    assert cheapest([first, step("b", "a", 0.0)], SPECS["a"], SPECS["c"]) is None
    assert "one direct adapter" in str(cheapest([direct], SPECS["a"], SPECS["c"]))


def _ends() -> tuple[ModelSpec, ModelSpec]:
    return SPECS["a"], SPECS["c"]


@pytest.mark.parametrize(
    "second",
    [
        {"prompt_length": 2},
        {"task": "click"},
        {"sources": (ModelSpec("org/b", 24, fingerprint="f" * 16),)},
        {"sources": (ModelSpec("org/b", 25),)},
        {"sources": (ModelSpec("other/b", 24),)},
    ],
)
def test_steps_that_do_not_fit_are_no_route(second: dict[str, object]) -> None:
    first = replace(step("a", "b"), target=ModelSpec("org/b", 24, fingerprint="e" * 16))
    assert cheapest([first, step("b", "c")], *_ends()) is not None
    assert cheapest([first, step("b", "c", **second)], *_ends()) is None


def test_a_cheap_step_that_leads_nowhere_does_not_hide_a_dearer_one() -> None:
    cheap = replace(step("a", "b", 0.01), target=ModelSpec("org/b", 24, fingerprint="e" * 16))
    dear = replace(step("a", "b", 0.3), target=ModelSpec("org/b", 24, fingerprint="f" * 16))
    last = step("b", "c", sources=(ModelSpec("org/b", 24, fingerprint="f" * 16),))
    route = cheapest([cheap, dear, last], *_ends())
    assert route is not None and route.adapters == (dear, last)


def test_the_search_against_all_ways() -> None:
    generator = random.Random(0)
    for _ in range(60):
        names = list(SIZES)
        steps = [
            step(*generator.sample(names, 2), generator.choice([None, 0.0, 0.02, 0.1, 0.5]), repo_id=f"u/{number}")
            for number in range(generator.randint(1, 9))
        ]
        ways: list[Sequence[PublishedAdapter]] = [[s] for s in steps if s.sources[0] == SPECS["a"]]
        complete = []
        while ways:
            current = ways.pop()
            if current[-1].target == SPECS["d"]:
                complete.append(Route(tuple(current)))
            elif len(current) < 5:
                ways += [[*current, s] for s in steps if s.sources[0] == current[-1].target and s not in current]
        found = cheapest(steps, SPECS["a"], SPECS["d"])
        assert (found is None) == (not complete)
        if found is not None:
            best = min(complete, key=lambda route: (round(route.loss, 12), len(route)))
            assert found.loss == pytest.approx(best.loss) and len(found) == len(best)


# Over HTTP


def publish(tmp_path: Path, source: str, target: str, loss: float | None, repo_id: str | None = None) -> PumaAdapter:
    adapter = make_adapter(sources=[SPECS[source]], target=SPECS[target])
    folder = tmp_path / f"{source}{target}"
    adapter.save_pretrained(folder)
    write_card(adapter, folder, AdapterFacts((evaluation(loss),)) if loss is not None else None)
    loaded: PumaAdapter = PumaAdapter.from_pretrained(folder)
    loaded.push_to_hub(repo_id)
    return loaded


def make_source(users: int = 5) -> PromptBank:
    prompts = np.random.default_rng(0).normal(size=(users, 1, 32)).astype(np.float32)
    return PromptBank.from_arrays([f"user-{i}" for i in range(users)], prompts, SPECS["a"])


def test_find_and_run_a_route(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "puma_hub")
    login("alice")
    first, second = publish(tmp_path, "a", "b", 0.02), publish(tmp_path, "b", "c", 0.03)
    publish(tmp_path, "a", "c", 0.4, "alice/direct")
    publish(tmp_path, "c", "d", None)
    login("bob")
    hub.empty_cache()
    route = find_route("org/a", SPECS["c"])
    assert way(route) == "abc" and route.loss == pytest.approx(1.02 * 1.03 - 1)
    assert "a chain of 2 adapters" in caplog.text and "alice/direct loses more, 40.0 %" in caplog.text
    bank = make_source()
    migrated = chain(bank, route)
    assert np.array_equal(migrated.prompts, second.migrate(first.migrate(bank)).prompts)
    assert migrated.user_ids == bank.user_ids and migrated.model == SPECS["c"]
    history = migrated.provenance.history
    assert [s["made_by"] for s in history] == ["given", "migrated"]
    assert [s["model"]["model_id"] for s in history] == ["org/a", "org/b"]
    assert way(find_route("org/a", "org/d")) == "abcd" and way(find_route("org/c", "org/d")) == "cd"
    # What was found is what is run, also if the repository has moved on.
    HfApi(token=hub.token("alice")).delete_file("model.safetensors", route.adapters[0].repo_id)
    hub.empty_cache()
    assert np.array_equal(chain(bank, route).prompts, migrated.prompts)
    assert np.array_equal(chain(bank, route.load()).prompts, migrated.prompts)


def test_no_route(hub: HubServer, login: Callable[..., None], tmp_path: Path, quick_retries: None) -> None:
    login("alice")
    with pytest.raises(HubNotFoundError, match="0 published adapters"):
        find_route("org/a", "org/c")
    publish(tmp_path, "a", "b", 0.02)
    with pytest.raises(HubNotFoundError, match="adapters to org/b"):
        find_route("org/a", "org/c")
    with pytest.raises(HubNotFoundError, match="none takes the source"):
        find_route("org/c", "org/b")
    with pytest.raises(ConfigurationError, match="nothing to migrate"):
        find_route("org/a", "org/a")
    with pytest.raises(HubNotFoundError, match="none takes the source"):
        find_route("org/a", "org/b", namespace="lab")
    marked = ModelSpec("org/a", 32, fingerprint="a" * 16)
    make_adapter(sources=[marked], target=SPECS["d"]).push_to_hub("alice/ad")
    assert way(find_route(marked, "org/d")) == "ad"
    with pytest.raises(HubNotFoundError, match="for other weights") as caught:
        find_route(ModelSpec("org/a", 32, fingerprint="b" * 16), "org/d")
    assert "a" * 16 in str(caught.value) and "b" * 16 in str(caught.value)
    hub.fail(500, path_contains="/api/models", times=None)
    with pytest.raises(HubUnavailableError):
        find_route("org/a", "org/b")


def test_chains_are_checked_before_they_run() -> None:
    bank, ab, bc = make_source(), make_adapter(sources=[SPECS["a"]]), make_adapter(sources=[SPECS["b"]])
    both = make_adapter(sources=[SPECS["b"], SPECS["a"]])
    ab.config.target = SPECS["b"]
    for steps, error, match in (
        ([], ConfigurationError, "at least one"),
        ([bc], MismatchError, "hidden size"),
        ([ab, ab], MismatchError, "adapter 2 of the chain"),
        ([ab, both], MismatchError, "joins 2 sources"),
        ([ab, make_adapter(sources=[SPECS["b"]], prompt_length=2)], MismatchError, "length 2"),
        ([ab, make_adapter(sources=[SPECS["b"]], task={"name": "click"})], MismatchError, "ClickTask"),
    ):
        with pytest.raises(error, match=match):
            chain(bank, steps)
    assert len(chain(bank, [ab, bc])) == len(bank)
    other = PromptBank.from_arrays(bank.user_ids, np.zeros((5, 1, 24)), SPECS["b"])
    assert chain([other, bank], [both]).user_ids == bank.user_ids
