"""``puma-hub report`` on tiny models, and the page it writes."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig
from puma_hub.adapter.facts import AdapterFacts, Training
from puma_hub.cli.main import main
from puma_hub.errors import StorageError
from puma_hub.evaluation import migration_report
from puma_hub.evaluation.report.migration import report_of_predictions
from puma_hub.evaluation.report.page import page
from tests.browser import browser  # noqa: F401
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from tests.simulated import controls, simulated

IDS = ["user-0", 'äöü "<b>', "user-2", "user-3", "nul\0byte", "user-5", "user-6", "user-7"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, a bank of each, the adapter between them with what was recorded of its training, and ratings."""
    folder = tmp_path_factory.mktemp("place")
    specs = []
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(folder / family)
        make_tokenizer().save_pretrained(folder / family)
        specs.append(ModelSpec.from_model(make_model(family), model_id=f"tiny/{family}"))
    source = PromptBank.from_arrays(IDS, make_bank().prompts, specs[0])
    source.save_pretrained(folder / "source")
    adapter = PumaAdapter(PumaConfig(sources=[specs[0]], target=specs[1])).eval()
    adapter.save_pretrained(folder / "run" / "adapter")
    AdapterFacts(training=Training(users=5, of_users=8, samples=320, seconds=12.5)).write(folder / "run" / "adapter")
    (folder / "run" / "work").mkdir()
    run = {"users": {"train": 5}, "seconds": {"until_best_epoch": 12.5}, "flops": {"until_best_epoch": 3.2e12}}
    (folder / "run" / "work" / "report.json").write_text(json.dumps(run))
    adapter.migrate(source.remove([IDS[2]])).save_pretrained(folder / "target")
    rows = make_interactions(rows=20).to_pandas()
    rows["user_id"] = rows.user_id.map(dict(zip([f"user-{number}" for number in range(8)], IDS)))
    rows = rows[(rows.user_id != IDS[3]) | (rows.timestamp < 1)]  # one row, which is not held out
    rows.to_json(folder / "rows.json", orient="records", lines=True)
    return folder


def report(place: Path, *more: object) -> list[str]:
    sides = ["--source", place / "llama", "--source-bank", place / "source", "--model", place / "gemma3"]
    rows = ["--bank", place / "target", "--interactions", place / "rows.json", "--resamples", 200]
    return [str(part) for part in ("report", *sides, *rows, *more)]


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "report.html", tmp_path / "report.json"]
    command = report(place, "--adapter", place / "run" / "adapter", "--out", files[0], "--json", files[1])
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "rmse on 24 rows of 6 users" in printed and "clearly worse" in printed and str(files[0]) in printed
    text, data = files[0].read_text(encoding="utf-8"), json.loads(files[1].read_text())
    compare = [part for part in command[1:] if part not in ("--resamples", "200")]
    compare = compare[: compare.index("--adapter")]
    assert main(["compare", *compare, "--json", str(tmp_path / "compare.json")]) == 0
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert {name: data[name] for name in compared} == compared  # all that compare says, and more
    assert (data["users_in_one_bank"], data["users_without_rows"], data["rows_left_out"]) == (1, 1, 4)
    assert data["cost"]["training"]["users"] == 5 and data["cost"]["flops"] == 3.2e12
    assert [(step["made_by"], step["from"], step["model"]) for step in data["lineage"]] == [
        ("given", [], "tiny/llama"),
        ("migrated", [1], "tiny/gemma3"),
    ]
    assert data["drift"]["by_activity"]["of"] == "training rows" and data["bootstrap"]["resamples"] == 200
    groups = data["drift"]["by_activity"]["groups"]
    assert [one["activity"] for one in groups] == [{"from": 16, "to": 16}] and groups[0]["rows"] == 24
    assert "3.2e+12" in text and "5 of 8" in text and "with 6 users, intervals are rough" in text
    for name in (*IDS, str(place)):
        assert name not in text and json.dumps(name)[1:-1] not in files[1].read_text()
    before = text
    assert main(command) == 0 and files[0].read_text(encoding="utf-8") == before  # replaced by the same
    capsys.readouterr()
    gate = ["gate", "--report", str(files[1]), "--min-users"]
    assert main([*gate, "6"]) == 0 and main([*gate, "7"]) == 1
    assert capsys.readouterr().out == "pass users >= 6: 6\nFAIL users >= 7: 6\n"
    adapter = place / "run" / "adapter"
    assert main(["card", str(adapter), "--comparison", str(files[1]), "--dataset", "mine"]) == 0


def test_from_python(place: Path, make_lm: Any) -> None:
    """Some of the users, held-out rows alone, and rows that the bank was trained on."""
    lm = make_lm()
    bank = make_bank(family="llama")
    rows = make_interactions()
    found = migration_report(lm, bank, lm, bank, rows, users=["user-1", "user-4", "user-5"], resamples=100)
    data = found.data
    assert data["users"] == 3 and data["rows"] == 36 and data["drift"]["by_activity"]["of"] == "held-out rows"
    assert data["figures"]["rmse"]["worsening"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert data["cost"] is None and "user-" not in json.dumps(data) + page(data, found.gains)


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (["--out", "letter.html"], 1, "no report of puma_hub"),
        (["--out", "."], 1, "is a folder"),
        (["--out", "{place}/rows.json"], 2, "an input"),
        (["--out", "{place}/target/report.html"], 2, "an input"),
        (["--out", "new.html", "--json", "new.html"], 2, "both written"),
        (["--out", "new.html", "--seed", "-1"], 2, "seed must be a whole number >= 0"),
        (["--out", "new.html", "--resamples", "5"], 2, "resamples must be a whole number >= 100"),
        (["--out", "new.html", "--adapter", "other"], 1, "give the adapter that made the target bank"),
    ],
)
def test_what_is_refused_leaves_everything(
    place: Path,
    tmp_path: Path,
    more: list[str],
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.html").write_text("<!doctype html><p>Dear reader</p>")
    PumaAdapter(PumaConfig(sources=[ModelSpec("x", 32)], target=ModelSpec("y", 32))).save_pretrained("other")
    before = {path: path.read_bytes() for path in (*tmp_path.rglob("*.*"), *place.rglob("*.json"))}
    assert main(report(place, *(part.format(place=place) for part in more))) == status
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before and not (tmp_path / "new.html").exists()


def test_without_matplotlib(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(report(place, "--out", tmp_path / "report.html")) == 1
    assert 'pip install "puma_hub[report]"' in capsys.readouterr().err and not (tmp_path / "report.html").exists()


class Read(HTMLParser):
    """What a page holds: tags with their attributes, in order, and its text."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written() -> tuple[dict[str, Any], np.ndarray]:
    before, after = controls(simulated(np.random.default_rng(0), 50))
    found = report_of_predictions(before, after, np.arange(50) % 5, resamples=100)
    more = {
        "users_in_one_bank": 1,
        "users_without_rows": 2,
        "rows_left_out": 3,
        "models": {side: {"model_id": "a/b", "revision": "main", "fingerprint": "0f"} for side in ("source", "target")},
        "cost": {
            "architecture": "seed",
            "parameters": 5,
            "training": asdict(Training(3, time_ratio=2.0)),
            "flops": None,
        },
        "lineage": [{"step": 1, "made_by": "given", "from": [], "model": "a/b"}],
    }
    return {**found.data, **more, "notes": ["a note"]}, found.gains


def test_the_page_needs_nothing_and_can_be_read() -> None:
    text = page(*written())
    read = Read(text)
    assert not read.open and not {"script", "link", "iframe", "img", "object", "form"} & {tag for tag, _ in read.tags}
    assert "http" not in re.sub(r'http-equiv="', "", text) and "@import" not in text
    addresses = [a for _, attributes in read.tags for a in (attributes.get("href"), attributes.get("xlink:href")) if a]
    assert addresses and all(a.startswith("#") for a in addresses)
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert max(ids.values()) == 1 and {a[1:] for a in addresses} <= ids.keys()
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= ids.keys()
    headings = [tag for tag, _ in read.tags if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", *["h2"] * 9]
    tags = Counter(tag for tag, _ in read.tags)
    assert tags["main"] == tags["nav"] == 1 and tags["table"] == tags["caption"] > 10 and tags["figure"] == 5
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in read.tags if tag == "th")
    pictures = [attributes for tag, attributes in read.tags if tag == "svg"]
    assert len(pictures) == 5 and all(len(one["aria-label"] or "") > 60 for one in pictures)
    assert "#010203" not in text and text.count("currentColor") > 20  # lines and text have the page's colour
    assert "prefers-color-scheme: dark" in text and 'name="viewport" content="width=device-width' in text
    assert "Content-Security-Policy" in text and read.tags[0] == ("html", {"lang": "en"})
    assert "puma_hub" in text[:200]


_CONTRAST = """() => {
    const luminance = colour => colour.map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const parts = colour => luminance(colour.match(/[\\d.]+/g).slice(0, 3).map(Number));
    const behind = parts(getComputedStyle(document.body).backgroundColor);
    const texts = [...document.querySelectorAll('p, td, th, a, caption, figcaption, svg text')];
    return Math.min(...texts.map(one => getComputedStyle(one)).map(style => {
        const colour = parts(style.fill !== 'rgb(0, 0, 0)' && style.fill !== 'none' ? style.fill : style.color);
        return (Math.max(colour, behind) + 0.05) / (Math.min(colour, behind) + 0.05);
    }));
}"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1200, "light")])
def test_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:  # noqa: F811
    path = tmp_path / "page.html"
    path.write_text(page(*written()), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
    opened = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(path.as_uri())
    assert asked == [path.as_uri()] and said == []
    assert opened.evaluate("document.documentElement.scrollWidth") == width  # wide tables scroll by themselves
    assert opened.evaluate(_CONTRAST) >= 4.5  # WCAG 2.2, level AA
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light is (scheme == "light")
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the summary"
    opened.keyboard.press("Enter")
    assert opened.url.endswith("#summary")
    for _ in range(3):
        opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.matches('.scroll')")  # tables are scrolled by keyboard
    context.close()


def spoilt(value: Any, text: str) -> Any:
    """Every text in ``value`` but for the names of metrics and groups that the page looks things up by."""
    if isinstance(value, dict):
        return {key: spoilt(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [spoilt(one, text) for one in value]
    return text if isinstance(value, str) else value


def test_texts_from_elsewhere_are_no_markup() -> None:
    data, gains = written()
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</svg>$\\frac$'
    bad = spoilt(data, evil)
    bad["figures"] = {evil: data["figures"]["rmse"]}
    bad["metric"] = evil
    read = Read(page(bad, gains))
    assert not read.open and not {"script", "img"} & {tag for tag, _ in read.tags}
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert "<script>alert(1)</script>" in read.text and "49" not in re.findall(r"onerror=alert\(1\)>(.{9})", read.text)


def test_somebody_elses_page_stays(tmp_path: Path) -> None:
    before, after = controls(simulated(np.random.default_rng(0), 5))
    found = report_of_predictions(before, after, np.zeros(5, np.int64), resamples=100)
    path = tmp_path / "page.html"
    path.write_text("<!doctype html>")
    with pytest.raises(StorageError, match="no report of puma_hub"):
        found.save(path)
    path.unlink()
    found.save(path)
    found.save(path)
    assert path.read_text(encoding="utf-8") == page(found.data, found.gains)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
