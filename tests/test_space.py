"""The app in a browser: scores against plain forwards, content from the demo and from variables."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from puma_hub import ModelSpec, PersonalizedLM, PromptBank, PumaAdapter, PumaConfig, RatingTask
from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from puma_hub.data.held_out import TrainedRows
from puma_hub.demo.sources import MODELS
from puma_hub.errors import ConfigurationError, InteractionsError, MissingDependencyError, StorageError
from puma_hub.space import build_app, content_from_variables
from puma_hub.space.content import Content, Items
from puma_hub.space.page import differences, errors, scores_page
from puma_hub.space.report import read_page
from puma_hub.space.scores import MOST_ITEMS, Answer, ItemScores, Scores
from tests.conftest import make_model, make_tokenizer
from tests.test_pipelines_scoring import by_hand

SPACE = Path(__file__).parents[1] / "examples" / "space"
FAMILIES = {"source": "llama", "target": "gemma3"}
USERS = tuple(f"{name}@example.org" for name in ("anna", "bela", "chen", "dora", "eli", "fay"))
HOSTILE = "Heat ${alert(1)} {{value}} <img src=x onerror=alert(1)> (1995)"
TITLES = ("Toy Story (1995)", "Headline, or nothing (1999)", HOSTILE, "Rating by viewer (1990)", "Toy Story (1995)")


@dataclass(frozen=True)
class Published:
    """Folders of everything that somebody publishes, and the variables that name them."""

    folder: Path
    bank: PromptBank
    adapter: PumaAdapter
    variables: dict[str, str]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    specs = {}
    for side, family in FAMILIES.items():
        model = make_model(family)
        model.save_pretrained(folder / side)
        make_tokenizer().save_pretrained(folder / side)
        specs[side] = ModelSpec.from_model(model, str(folder / side))
    prompts = 3 * np.random.default_rng(0).normal(size=(len(USERS), 2, 32)).astype(np.float32)
    bank = PromptBank.from_arrays(USERS, prompts, specs["source"], task=RatingTask())
    torch.manual_seed(1)
    config = PumaConfig(
        sources=[specs["source"]], target=specs["target"], prompt_length=2, hidden_size=48, rating_head=False
    )
    adapter = PumaAdapter(config).eval()
    adapter.standardize(torch.from_numpy(prompts.mean(0)), [float(prompts.std())], 3.0)
    with torch.no_grad():  # an untrained adapter's branches are small
        for parameter in adapter.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5)
    bank.save_pretrained(folder / "bank")
    adapter.save_pretrained(folder / "adapter")
    items = [f"item-{number}" for number in range(len(TITLES))]
    datasets.Dataset.from_dict({"item_id": items, "item_text": [*TITLES[:4], "Toy Story (1995)\nAgain"]}).to_csv(
        folder / "items.csv", index=False
    )
    rows = [(user, item, 1.0 + (place + item) % 5) for place, user in enumerate(USERS[1:]) for item in (0, 2)]
    datasets.Dataset.from_list(
        [
            {"user_id": user, "item_id": items[item], "item_text": TITLES[item], "label": label}
            for user, item, label in rows
        ]
    ).to_csv(folder / "held-out.csv", index=False)
    page = '<!doctype html><title>R</title><a href="#end">To the end</a><p style="height:99em"><h1 id="end">End</h1>'
    (folder / "report.html").write_text(page, encoding="utf-8")
    names = ("adapter", "bank", "items.csv", "held-out.csv", "report.html")
    chosen = ("PUMA_HUB_ADAPTER", "PUMA_HUB_BANK", "PUMA_HUB_ITEMS", "PUMA_HUB_HELD_OUT", "PUMA_HUB_REPORT")
    return Published(folder, bank, adapter, {name: str(folder / file) for name, file in zip(chosen, names)})


@pytest.fixture(scope="module")
def content(published: Published) -> Content:
    return content_from_variables(published.variables, say=lambda line: None)


@pytest.fixture(scope="module")
def expected(published: Published) -> Callable[[int, list[int]], list[dict[str, dict[str, Any]]]]:
    """Scores by plain forwards: own and mean prompt on both sides, for each item."""
    banks = {"source": published.bank.prompts, "target": published.adapter.migrate(published.bank).prompts}
    tokenizer = make_tokenizer()
    texts = [*TITLES[:4], "Toy Story (1995)\nAgain"]

    def of(user: int, items: list[int]) -> list[dict[str, dict[str, Any]]]:
        rows = [{"item_text": texts[item]} for item in items]
        found: list[dict[str, dict[str, Any]]] = [{} for _ in items]
        for side, prompts in banks.items():
            for name, prompt in ((side, prompts[user]), (f"{side}_mean", prompts.mean(0))):
                answers = by_hand(FAMILIES[side], tokenizer, [prompt] * len(rows), list("12345"), None, rows)
                for place, answer in enumerate(answers):
                    found[place][name] = answer
        return found

    return of


def close(scores: list[ItemScores], wanted: list[dict[str, dict[str, Any]]]) -> bool:
    return all(
        getattr(one, name).score == pytest.approx(answer["score"], abs=1e-3)
        and getattr(one, name).distribution == pytest.approx(answer["distribution"], abs=1e-3)
        for one, answers in zip(scores, wanted, strict=True)
        for name, answer in answers.items()
    )


def test_scores_are_those_of_plain_forwards(content: Content, expected: Callable[..., Any]) -> None:
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    for user, items in ((0, [0, 2, 4]), (5, [1]), (0, [2])):
        assert close(scores.of(user, items), expected(user, items))
    wanted = expected(0, [0, 1])
    differ = [abs(one["target"]["score"] - one["target_mean"]["score"]) for one in wanted]
    assert min(differ) > 0.01  # so that own and mean prompt cannot be taken for one another


def test_results_are_kept(content: Content) -> None:
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    assert scores.of(1, [0, 1]) is scores.of(1, (0, 1))
    assert scores.of(1, [1, 0]) is not scores.of(1, [0, 1])


@pytest.mark.parametrize(
    ("user", "items", "said"),
    [
        (-1, [0], "users 1 to 6"),
        (6, [0], "users 1 to 6"),
        (0, [], "0 items are chosen"),
        (0, [0] * (MOST_ITEMS + 1), f"choose 1 to {MOST_ITEMS}"),
        (0, [5], "there are 5 items"),
        (0, [-1], "there are 5 items"),
    ],
)
def test_numbers_out_of_range(content: Content, user: int, items: list[int], said: str) -> None:
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    with pytest.raises(ConfigurationError, match=said):
        scores.of(user, items)


def test_prompts_that_need_more_than_an_item_are_refused(make_lm: Callable[..., PersonalizedLM]) -> None:
    from puma_hub.pipelines import PersonalizedScoringPipeline

    for options, said in (
        ({"template": "<history> <item> <user> "}, "without a history"),
        ({"task": RatingTask(offset="bias")}, "'bias'"),
    ):
        pipe = PersonalizedScoringPipeline(make_lm(**options))
        with pytest.raises(ConfigurationError, match=said):
            Scores(pipe, pipe, ["u"], ["Heat"])


def test_the_page_has_the_figures_and_no_id(content: Content, expected: Callable[..., Any]) -> None:
    user, items = 2, [0, 2]
    wanted = expected(user, items)
    scores = Scores(content.source, content.target, content.users, content.items.texts).of(user, items)
    page = scores_page(content, user, items, scores)
    shown = re.findall(r'data-score="([\w-]+)">([\d.]+)<', page)
    assert shown == [
        (name.replace("_", "-"), figure)
        for item, answers in zip(items, wanted)
        for name, figure in [
            *((name, f"{answers[name]['score']:.2f}") for name in ("source", "target", "source_mean", "target_mean")),
            ("label", f"{content.items.labels[USERS[user]][item]:g}"),
        ]
    ]
    assert "<strong>User 3</strong> of 6" in page and "2 ratings of this user are held out" in page
    assert "example.org" not in page and "<img" not in page and "&lt;img" in page


def test_differences_and_errors_are_means_over_items() -> None:
    def scored(*values: float) -> ItemScores:
        return ItemScores(*(Answer(value, {}) for value in values))

    scores = [scored(3.0, 3.5, 2.0, 1.0), scored(4.0, 3.0, 2.0, 2.0), scored(1.0, 1.0, 1.0, 5.0)]
    assert differences(scores) == {"own": pytest.approx(0.5), "mean": pytest.approx((2 + 2 + 4) / 3)}
    assert errors(scores, [5.0, None, 2.0]) == {"source": 1.5, "target": 1.25, "target_mean": 3.5, "rows": 2}
    assert errors(scores, [None, None, None]) is None


def test_items_have_different_titles_and_the_text_of_held_out_rows() -> None:
    catalogue = datasets.Dataset.from_dict(
        {
            "item_id": ["a", "b", "c", "d"],
            "item_text": ["Heat\nstars: 3", "Heat\nstars: 4", "Heat (2)", "x" * 200],
        }
    )
    held_out = datasets.Dataset.from_dict(
        {
            "user_id": ["u", "u"],
            "item_id": ["b", "unknown"],
            "item_text": ["Heat\nstars: 5", "?"],
            "label": [4.0, 1.0],
        }
    )
    items = Items.of(catalogue, held_out)
    assert items.texts == ("Heat\nstars: 3", "Heat\nstars: 5", "Heat (2)", "x" * 200)
    assert items.labels == {"u": {1: 4.0}}
    assert items.titles() == ["Heat", "Heat (2)", "Heat (2) (2)", "x" * 89 + "…"]


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"PUMA_HUB_BANK": ""}, ConfigurationError, "without PUMA_HUB_BANK"),
        ({"PUMA_HUB_ADAPTER": "", "PUMA_HUB_BANK": ""}, ConfigurationError, "without PUMA_HUB_ADAPTER and PUMA_HUB_B"),
        ({"PUMA_HUB_ITEMS": "", "PUMA_HUB_HELD_OUT": ""}, ConfigurationError, "no items to choose from"),
        ({"PUMA_HUB_ITEMS": "nowhere.csv"}, StorageError, "no catalogue at nowhere.csv"),
        ({"PUMA_HUB_HELD_OUT": "nowhere.csv"}, StorageError, "no interactions at nowhere.csv"),
        ({"PUMA_HUB_REPORT": "nowhere.html"}, StorageError, "puma-hub report"),
        ({"PUMA_HUB_TARGET_MODEL": "nowhere"}, StorageError, "'nowhere'"),
    ],
)
def test_variables_that_name_too_little(
    published: Published, changed: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        content_from_variables({**published.variables, **changed}, say=lambda line: None)


def test_training_rows_are_no_held_out_rows(published: Published, tmp_path: Path) -> None:
    rows = load_interactions(published.variables["PUMA_HUB_HELD_OUT"], held_out=0.5)["train"]
    bank = published.bank.with_provenance(trained_rows=TrainedRows.of(rows))
    bank.save_pretrained(tmp_path / "bank")
    with pytest.raises(InteractionsError, match="was trained on"):
        content_from_variables({**published.variables, "PUMA_HUB_BANK": str(tmp_path / "bank")}, say=lambda line: None)


def test_llms_that_puma_hub_fetch_made_are_found_in_the_cache(
    published: Published, expected: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their weights are rounded, so an adapter of theirs does not fit the LLM on the Hub whose id they bear."""
    monkeypatch.setenv("PUMA_HUB_CACHE", str(tmp_path))
    adapter = PumaAdapter.from_pretrained(published.folder / "adapter")
    specs = []
    for (name, source), side in zip(MODELS.items(), FAMILIES):
        shutil.copytree(published.folder / side, tmp_path / "models" / name)
        (known,) = adapter.config.sources if side == "source" else (adapter.config.target,)
        specs.append(replace(known, model_id=source.hub_id, revision=source.revision))
    adapter.config.sources, adapter.config.target = [specs[0]], specs[1]
    adapter.save_pretrained(tmp_path / "adapter")
    variables = {**published.variables, "PUMA_HUB_ADAPTER": str(tmp_path / "adapter")}
    content = content_from_variables(variables, say=lambda line: None)
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    assert close(scores.of(0, [1]), expected(0, [1]))


def test_items_of_held_out_rows(published: Published) -> None:
    content = content_from_variables({**published.variables, "PUMA_HUB_ITEMS": ""}, say=lambda line: None)
    assert set(content.items.texts) == {TITLES[0], TITLES[2]}


def test_a_page_far_too_large_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "report.html", "wb") as file:
        file.truncate(2**25 + 1)
    with pytest.raises(StorageError, match="33,554,433 bytes"):
        read_page(tmp_path / "report.html")
    (tmp_path / "binary.html").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="cannot be read as a page"):
        read_page(tmp_path / "binary.html")


def test_gradio_is_asked_for_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: Content
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--out", str(tmp_path / "out"), "--ui"]) == 1
    assert 'pip install "puma_hub[space]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingDependencyError):
        build_app(content)
