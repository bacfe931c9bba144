"""The example Space, and the app in a real browser: by keyboard, on a phone, in dark mode."""

from __future__ import annotations

import configparser
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import SpaceCard
from packaging.version import Version

from puma_hub.demo.sources import MODELS
from puma_hub.space import launch
from puma_hub.space.scores import MOST_ITEMS
from puma_hub.space.variables import VARIABLES
from tests.browser import browser  # noqa: F401
from tests.test_space import HOSTILE, SPACE, TITLES, Published, expected, published  # noqa: F401


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


# The browser


@pytest.fixture(scope="module")
def address(published: Published) -> Iterator[str]:  # noqa: F811
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
    expected: Callable[..., Any],  # noqa: F811
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
