"""Pictures: PNG files that are known as ours, and SVG for inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from puma_hub.errors import MissingDependencyError, StorageError
from puma_hub.storage import new_file

SOFTWARE = "puma_hub"  # among the first bytes of files, by which they are known
INK = "#010203"
"""The colour that an SVG takes from the page's text, light or dark."""
_FIRST = 512  # bytes
_SVG = {"svg.fonttype": "none", "svg.hashsalt": SOFTWARE, "text.parse_math": False}
_COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


def require_matplotlib(why: str, extra: str = "demo") -> None:
    """Refuse before the work is done, not after it.

    Args:
        why: what is drawn, such as ``"the demo draws demo.png"``.
        extra: the extra of puma_hub that brings matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f'{why}; run: pip install "puma_hub[{extra}]"') from error


def require_own_file(path: Path, what: str = "picture") -> None:
    """Refuse to write over a file of somebody else's.

    Raises:
        StorageError: there is a file at ``path`` that does not name puma_hub in its first bytes.
    """
    if path.exists() and not (path.is_file() and SOFTWARE.encode() in path.read_bytes()[:_FIRST]):
        raise StorageError(f"{path} is no {what} of puma_hub, and would be replaced; move it, or choose another folder")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure as a PNG of 120 pixels an inch."""
    with new_file(path) as staged:
        figure.savefig(staged, format="png", dpi=120, metadata={"Software": SOFTWARE})


@contextmanager
def svg_style() -> Iterator[None]:
    """Inside, figures are drawn for :func:`inline_svg`: lines and text in :data:`INK`, no mathematics in text."""
    from matplotlib import rc_context

    style: Any = _SVG | dict.fromkeys(_COLOURED, INK)
    with rc_context(style):
        yield


def inline_svg(figure: Any, name: str, alt: str) -> Markup:
    """A figure as SVG for inside an HTML page; ``alt`` says what it shows, ``name`` keeps its ids apart from others'.

    It has no background, takes its width from the page, and is the same for the same figure.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace(INK, "currentColor")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))
