"""Starting the app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puma_hub.space.app import gradio_module
from puma_hub.space.page import style

_WAITING = 64  # requests; more are refused


def launch(app: Any, *, say: Callable[[str], None] = print, block: bool = True) -> str:
    """Serve an app of :func:`puma_hub.space.build_app`, and return its address.

    The browser is sent to no other host: fonts are the machine's own, nothing is reported to gradio or shared, and no
    history of what was shown is kept. Address and port are those of gradio's variables ``GRADIO_SERVER_NAME`` and
    ``GRADIO_SERVER_PORT``, by default 127.0.0.1 and the first free port from 7860.

    Args:
        say: takes the line with the address.
        block: serve until Ctrl-C; if false, return at once, and ``app.close()`` ends it.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    gradio = gradio_module()
    app.queue(max_size=_WAITING, default_concurrency_limit=1)
    _, address, _ = app.launch(
        quiet=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=["settings"],
        prevent_thread_lock=True,
        css=style(),
        theme=_theme(gradio),
    )
    say(f"open {address} in a browser; Ctrl-C ends it")
    if block:
        app.block_thread()
    return str(address)


def _theme(gradio: Any) -> Any:
    """gradio's usual one with fonts of the reader's own machine, and colours of more contrast (WCAG 2.2, 1.4.3)."""
    theme = gradio.themes.Default(
        primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "Consolas", "monospace")
    )
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
