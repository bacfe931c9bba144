"""The app in a browser: scores against plain forwards, content from the demo and from variables, and a real browser."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard
from packaging.version import Version

from puma_hub import ModelSpec, PersonalizedLM, PromptBank, PumaAdapter, PumaConfig, RatingTask
from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from puma_hub.data.held_out import TrainedRows
from puma_hub.demo.finished import finished_demo
from puma_hub.demo.run import run_demo
from puma_hub.demo.settings import SOURCE_MODEL, TARGET_MODEL, DemoSettings
from puma_hub.demo.sources import MODELS
from puma_hub.errors import ConfigurationError, InteractionsError, MissingDependencyError, StorageError
from puma_hub.space import build_app, content_from_variables, launch
from puma_hub.space.content import Content, Items
from puma_hub.space.demo import demo_content
from puma_hub.space.page import differences, errors, scores_page
from puma_hub.space.report import read_page
from puma_hub.space.scores import MOST_ITEMS, Answer, ItemScores, Scores
from puma_hub.space.variables import VARIABLES
from tests.browser import browser  # noqa: F401
from tests.conftest import make_model, make_tokenizer
from tests.small_movielens import write_movielens
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


def test_the_space_says_what_it_is() -> None:
    card = SpaceCard.load(SPACE / "README.md").data.to_dict()
    config = configparser.ConfigParser()
    config.read(SPACE.parents[1] / "setup.cfg")
    lowest = config["options.extras_require"]["space"].strip().removeprefix("gradio>=")
    assert card["sdk"] == "gradio" and Version(card["sdk_version"]) >= Version(lowest)
    assert (SPACE / card["app_file"]).is_file() and len(card["short_description"]) <= 60
    assert card["models"] == [source.hub_id for source in MODELS.values()]
    assert card["license"] == "apache-2.0" and card["tags"][0] == "puma-hub"
    assert (SPACE / "requirements.txt").read_text() == "puma_hub[demo,space]\n"
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    assert {*re.findall(r"PUMA_HUB_[A-Z_]+", text)} == {*VARIABLES, "PUMA_HUB_DEMO", "PUMA_HUB_CACHE"}


# The demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoSettings]:
    """A finished demo on tiny models."""
    with pytest.MonkeyPatch.context() as patch:
        movielens = write_movielens(tmp_path_factory.mktemp("movielens"))
        families = {SOURCE_MODEL: "llama", TARGET_MODEL: "gemma3"}

        def load(name: str, *_: Any, device: str | None = None) -> PersonalizedLM:
            return PersonalizedLM(make_model(families[name]), make_tokenizer(), model_id=f"tiny/{families[name]}")

        for module in ("demo.run", "space.demo"):
            patch.setattr(f"puma_hub.{module}.fetch", lambda name, say: movielens)
            patch.setattr(f"puma_hub.{module}.load_model", load)
        settings = DemoSettings(users=12, rows_per_user=10, out=str(tmp_path_factory.mktemp("demo") / "out"))
        run_demo(settings, lambda line: None)
        yield settings


def test_a_finished_demo_is_known(demo: DemoSettings, tmp_path: Path) -> None:
    report = finished_demo(demo)
    assert report is not None and report == json.loads((Path(demo.out) / "report.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    moved = DemoSettings(users=12, rows_per_user=10, out=str(copy))
    assert finished_demo(moved) is not None
    with pytest.raises(ConfigurationError, match=r"users 12, not 13; .*without --ui"):
        finished_demo(DemoSettings(users=13, rows_per_user=9, out=str(copy)))
    assert finished_demo(DemoSettings(out=str(tmp_path / "nothing"))) is None


@pytest.mark.parametrize("lost", ["report.json", "demo.png", "adapter/adapter_facts.json", "source-bank/bank.json"])
def test_a_demo_that_lacks_a_part_is_not_finished(demo: DemoSettings, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    (copy / lost).unlink()
    assert finished_demo(DemoSettings(users=12, rows_per_user=10, out=str(copy))) is None


def test_a_demo_that_a_later_run_began_to_replace_is_not_finished(demo: DemoSettings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    bank = PromptBank.from_pretrained(copy / "source-bank")
    noise = np.random.default_rng(0).normal(size=bank.prompts.shape).astype(np.float32)
    other = PromptBank.from_arrays(bank.user_ids, bank.prompts + noise, bank.model)
    other = PromptBank(other.dataset, bank.provenance, bank.head)
    other.save_pretrained(copy / "source-bank")
    assert finished_demo(DemoSettings(users=12, rows_per_user=10, out=str(copy))) is None


def test_the_demos_content_is_that_of_its_evaluation(demo: DemoSettings) -> None:
    report = finished_demo(demo)
    assert report is not None
    content = demo_content(demo, report, lambda line: None)
    assert content.unseen is not None and len(content.unseen) == 12 - report["users"]["selected"]
    labels = {(user, item): label for user, rated in content.items.labels.items() for item, label in rated.items()}
    assert len(labels) == report["rows"]["validation"]
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    squares: dict[str, list[float]] = {"source": [], "target": []}
    for number, user in enumerate(content.users):
        items = list(content.items.labels.get(user, ()))
        for item, one in zip(items, scores.of(number, items) if items else ()):
            for side, found in squares.items():
                found.append((getattr(one, side).score - labels[user, item]) ** 2)
    assert np.sqrt(np.mean(squares["source"])) == pytest.approx(report["rmse"]["source"], abs=1e-4)
    assert np.sqrt(np.mean(squares["target"])) == pytest.approx(report["rmse"]["migrated"], abs=1e-4)
    assert "| own prompts" in content.report.tables and content.report.picture[:4] == b"\x89PNG"


def test_demo_ui_shows_a_finished_demo_and_runs_none(
    demo: DemoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gradio

    pages = []

    def visit(self: Any) -> None:
        with urllib.request.urlopen(f"{self.local_url}config") as answer:
            pages.append(answer.read().decode())
        self.close()

    monkeypatch.setattr(gradio.Blocks, "block_thread", visit)
    command = ["demo", "--users", "12", "--rows-per-user", "10", "--out", demo.out, "--ui"]
    before = (Path(demo.out) / "report.json").stat().st_mtime_ns
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr()
    assert "[1/8]" not in printed.err and "open http://127.0.0.1:" in printed.err
    assert "migrated prompts on the target LLM" in printed.out
    assert (Path(demo.out) / "report.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "report.json").read_text())["users"]["total"] == 12
    (page,) = pages
    assert "llama" in page and "Film 3, Action" in page
    assert main([*command[:-1], "--seed", "7", "--ui"]) == 2  # and the finished demo stays
    assert "seed 42, not 7" in capsys.readouterr().err


def test_gradio_is_asked_for_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: Content
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--out", str(tmp_path / "out"), "--ui"]) == 1
    assert 'pip install "puma_hub[space]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingDependencyError):
        build_app(content)


# The browser


@pytest.fixture(scope="module")
def address(published: Published) -> Iterator[str]:
    """The Space as it would run, from its own app.py."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in published.variables.items():
            patch.setenv(name, value)
        app = runpy.run_path(str(SPACE / "app.py"))["app"]
        yield launch(app, say=lambda line: None, block=False)
        app.close()


_NAMELESS = """() => [...document.querySelectorAll('input, button, select, textarea, iframe, img, [role=combobox]')]
    .filter(one => one.checkVisibility() && !(one.labels?.length && [...one.labels].some(l => l.textContent.trim()))
        && !one.getAttribute('aria-label') && !one.title && !one.alt && !one.textContent.trim())
    .map(one => one.outerHTML)"""
_LIGHTNESS = """() => {
    const lightness = name => getComputedStyle(document.querySelector('.puma'))[name];
    let place = document.querySelector('.puma'), behind;
    while (place && /rgba\\(0, 0, 0, 0\\)|transparent/.test(behind = getComputedStyle(place).backgroundColor))
        place = place.parentElement;
    return [lightness('color'), behind].map(color => color.match(/[\\d.]+/g).slice(0, 3).map(Number));
}"""


def contrast(first: list[float], second: list[float]) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def go_to(page: Any, role: str, name: str, key: str = "Tab") -> None:
    """Press a key until the control has the focus."""
    wanted = page.get_by_role(role, name=name, exact=True)
    for _ in range(30):
        if wanted.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press(key)
    pytest.fail(f"the {role} {name} cannot be reached with {key}")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser_by_keyboard(
    browser: Any,  # noqa: F811
    address: str,
    expected: Callable[..., Any],
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.set_default_timeout(60_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator(".puma-item").first.wait_for()  # those of a first user
    assert page.get_by_role("status").filter(has_text="User 2 of 6").is_visible()

    go_to(page, "spinbutton", "User")
    page.keyboard.press("Control+A")
    page.keyboard.type("5")
    go_to(page, "combobox", "Items")
    for _ in TITLES:
        page.keyboard.press("Backspace")
    for text in ("Rating by", "Heat"):
        page.keyboard.type(text)
        page.get_by_role("option").first.wait_for()
        page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    go_to(page, "button", "Show scores")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="User 5 of 6").wait_for()

    assert page.locator(".puma-item h2").all_inner_texts() == [TITLES[3], HOSTILE]
    for place, answers in enumerate(expected(4, [3, 2])):
        item = page.locator(".puma-item").nth(place)
        for name, answer in answers.items():
            shown = item.locator(f'[data-score="{name.replace("_", "-")}"]').inner_text()
            assert float(shown) == pytest.approx(answer["score"], abs=0.006), name
        for side in ("source", "target"):
            shares = item.locator(f'[data-answer="{side}"]').all_inner_texts()
            chances = [100 * chance for chance in answers[side]["distribution"].values()]
            assert [float(share.removesuffix(" %")) for share in shares] == pytest.approx(chances, abs=0.6)
            widths = item.locator(f".puma-fill.puma-{side}").evaluate_all(
                "all => all.map(one => 100 * one.getBoundingClientRect().width / "
                "one.parentElement.getBoundingClientRect().width)"
            )
            assert widths == pytest.approx(chances, abs=1.0)
    assert page.locator(".puma-item [data-score=label]").all_inner_texts() == ["1"]  # of the second item

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_NAMELESS) == []
    text, behind = page.evaluate(_LIGHTNESS)
    assert contrast(text, behind) >= 4.5 and (sum(behind) < 200) == (scheme == "dark")
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    assert (tmp_path / f"{width}-{scheme}.png").stat().st_size > 10_000

    go_to(page, "tab", "Report", "Shift+Tab")
    page.keyboard.press("Enter")
    report = page.frame_locator('iframe[title="Migration report"]')
    assert report.get_by_role("heading").inner_text() == "End"
    with page.expect_event("framenavigated") as moved:
        report.get_by_role("link", name="To the end").press("Enter")
    assert moved.value.url == "about:srcdoc#end"
    assert "example.org" not in page.content()
    assert page.request.get(f"{address}config").text().count("example.org") == 0
    assert said == []
    assert asked and {url.split("/")[2] for url in asked if not url.startswith("data:")} == {address.split("/")[2]}
    page.close()


def test_a_mistake_is_told_in_the_page(browser: Any, address: str) -> None:  # noqa: F811
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    page.locator(".puma-item").first.wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Show scores").click()
    page.get_by_text(f"0 items are chosen; choose 1 to {MOST_ITEMS}").wait_for()
    page.get_by_role("spinbutton", name="User").fill("1")
    page.get_by_role("button", name="Choose items this user rated").click()
    page.get_by_text("no rating of this user is held out").wait_for()
    page.get_by_role("spinbutton", name="User").fill("3")
    page.get_by_role("button", name="Choose items this user rated").click()
    page.get_by_role("status").filter(has_text="User 3 of 6").wait_for()
    assert page.locator(".puma-item h2").all_inner_texts() == [TITLES[0], HOSTILE]
    page.close()
