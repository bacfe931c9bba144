"""The app: choose a user and items, see both LLMs side by side, and the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from markupsafe import escape

from puma_hub.errors import ConfigurationError, MissingDependencyError, PumaHubError
from puma_hub.space.content import Content
from puma_hub.space.page import model_name, scores_page
from puma_hub.space.scores import MOST_ITEMS, Scores

_SHOWN_AT_FIRST = 3
_MEANING = """\
Every user has a *soft prompt*: a few trained vectors that make a frozen LLM answer as that user would. A prompt fits \
one LLM only. An *adapter*, trained on some users, moves the prompts of **all** users to another LLM.

- **Scores**: what each LLM predicts for an item with this user's prompt: the source with the prompt trained for it, \
the target with the migrated one.
- **Bars**: the probability of each answer. A rating is predicted from all of them by a small trained head, so it need \
not lie at the longest bar.
- **The mean prompt** is the mean over all users. With it everybody gets the same scores. A migration that moved \
nothing personal would give these.
- **Held-out ratings** are the user's own. No prompt and no adapter was trained on them.
- Users are shown by their numbers in the bank, never by their ids.
"""


def gradio_module() -> Any:
    """gradio, which is told to report nothing about its use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise MissingDependencyError('the app needs gradio; run: pip install "puma_hub[space]"') from error
    return gradio


def build_app(content: Content) -> Any:
    """The app as ``gradio.Blocks``; :func:`puma_hub.space.launch` starts it.

    Raises:
        MissingDependencyError: gradio is not installed.
        ConfigurationError: there are no users or no items, or the bank's scores need more than an item.
    """
    gradio = gradio_module()
    if not content.users or not content.items.texts:
        raise ConfigurationError(
            f"the app needs users and items, and has {len(content.users)} and {len(content.items.texts)}; give a bank "
            "and a catalogue that are not empty"
        )
    scores = Scores(content.source, content.target, content.users, content.items.texts)
    source, target = model_name(content.source), model_name(content.target)
    titles, first = content.items.titles(), _first_user(content)

    def show(user: float | None, items: Sequence[int] | None) -> str:
        with _shown(gradio):
            number, chosen = _number(user), list(items or ())
            return scores_page(content, number, chosen, scores.of(number, chosen))

    def rated(user: float | None) -> list[str]:
        with _shown(gradio):
            number = _number(user)
            found = content.items.labels.get(content.users[number], {}) if number < len(content.users) else {}
            if not found:
                raise ConfigurationError("no rating of this user is held out; choose items, or another user")
            return [titles[item] for item in list(found)[:MOST_ITEMS]]

    with gradio.Blocks(title=f"{source} to {target}: migrated prompts", analytics_enabled=False) as app:
        gradio.Markdown(f"# Migrated prompts: {source} to {target}\n\n{content.whose}")
        with gradio.Tabs():
            with gradio.Tab("Scores"):
                with gradio.Row():
                    user = gradio.Number(
                        first + 1,
                        label="User",
                        info=f"a number from 1 to {len(content.users):,}",
                        minimum=1,
                        maximum=len(content.users),
                        precision=0,
                        scale=1,
                    )
                    items = gradio.Dropdown(
                        titles,
                        value=[titles[number] for number in _first_items(content, first)],
                        type="index",
                        multiselect=True,
                        max_choices=MOST_ITEMS,
                        label="Items",
                        info=f"up to {min(MOST_ITEMS, len(titles))} of {len(titles):,}; type to search",
                        scale=3,
                        min_width=280,  # below the number on a phone
                    )
                with gradio.Row():
                    scored = gradio.Button("Show scores", variant="primary")
                    own = gradio.Button("Choose items this user rated", visible=bool(content.items.labels))
                page = gradio.HTML(apply_default_css=False)
            with gradio.Tab("Report"):
                _add_report(gradio, content)
            with gradio.Tab("About"):
                gradio.Markdown(_MEANING)
        private = {"api_visibility": "private"}
        for event in (scored.click, user.submit, app.load):
            event(show, [user, items], page, **private)
        own.click(rated, user, items, **private).success(show, [user, items], page, **private)
    return app


def _add_report(gradio: Any, content: Content) -> None:
    report = content.report
    if report.picture:
        alt = "Left: the error of each way to predict. Right: each user's personal gain on both LLMs."
        gradio.HTML(f'<img class="puma-picture" alt="{alt}" src="{report.picture_address}">')
    if report.tables or not report.page:
        gradio.Markdown(report.tables or "There is no report of this migration. `puma-hub report` makes one.")
    if report.page:
        # In a frame of its own: its style stays there, no scripts would run, and links to its own parts stay inside.
        page = escape(f'<base href="about:srcdoc">{report.page}')
        gradio.HTML(f'<iframe class="puma-report" title="Migration report" sandbox srcdoc="{page}"></iframe>')


@contextmanager
def _shown(gradio: Any) -> Iterator[None]:
    """Show our errors in the page, for they say what to do; of all others the page says only that there was one."""
    try:
        yield
    except PumaHubError as error:
        raise gradio.Error(str(escape(error)), print_exception=False) from error


def _number(user: float | None) -> int:
    if user is None:
        raise ConfigurationError("no user is chosen; type a number")
    return int(user) - 1


def _first_user(content: Content) -> int:
    """The first user whom the adapter never saw and who has held-out ratings, or else the first one."""
    for number, user_id in enumerate(content.users):
        if user_id in content.items.labels and (content.unseen is None or user_id in content.unseen):
            return number
    return 0


def _first_items(content: Content, user: int) -> list[int]:
    rated = content.items.labels.get(content.users[user])
    return list(rated or range(len(content.items.texts)))[:_SHOWN_AT_FIRST]
