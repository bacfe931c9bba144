"""The app's content from environment variables, as a Space is told what to show."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from puma_hub.demo.finished import finished_demo
from puma_hub.demo.run import run_demo
from puma_hub.demo.settings import DemoSettings
from puma_hub.errors import ConfigurationError
from puma_hub.space.content import Content
from puma_hub.space.demo import demo_content
from puma_hub.space.published import published_content

DEMO = "PUMA_HUB_DEMO"
"""The folder of the demo's output, where no adapter is named."""
VARIABLES = {
    "PUMA_HUB_ADAPTER": "adapter",
    "PUMA_HUB_BANK": "bank",
    "PUMA_HUB_SOURCE_MODEL": "source_model",
    "PUMA_HUB_TARGET_MODEL": "target_model",
    "PUMA_HUB_ITEMS": "items",
    "PUMA_HUB_HELD_OUT": "held_out",
    "PUMA_HUB_REPORT": "report",
}
"""The arguments of :func:`puma_hub.space.published.published_content`, by their variables."""
_NEEDED = ("PUMA_HUB_ADAPTER", "PUMA_HUB_BANK")


def content_from_variables(
    variables: Mapping[str, str] | None = None, *, say: Callable[[str], None] = print
) -> Content:
    """What :data:`VARIABLES` name. Where they are not set, the demo on MovieLens, which is run if it was not before.

    **Whoever opens a public Space can see how each user of its bank answers.** Its bank must hold prompts of made-up
    users, of users who agreed to that, or of public data.

    Args:
        variables: those of the process by default; empty ones do not count.
        say: takes a line of progress.

    Raises:
        ConfigurationError: a variable is missing.
        PumaHubError: see :func:`puma_hub.space.published.published_content` and :func:`puma_hub.demo.run.run_demo`.
    """
    given = {name: value for name, value in (os.environ if variables is None else variables).items() if value}
    named = {name: given[name] for name in VARIABLES if name in given}
    if not named:
        settings = DemoSettings(out=given.get(DEMO, "puma-demo"))
        report = finished_demo(settings)
        return demo_content(settings, run_demo(settings, say) if report is None else report, say)
    if missing := [name for name in _NEEDED if name not in named]:
        raise ConfigurationError(f"{', '.join(named)} is set without {' and '.join(missing)}; set these too, or none")
    return published_content(say=say, **{VARIABLES[name]: value for name, value in named.items()})
